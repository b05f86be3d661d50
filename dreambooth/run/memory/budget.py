"""The memory of a run beside that which is free: the plan's line, a warning before loading, the error without room."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

from dreambooth.run import checkpoints
from dreambooth.run.memory import advice, attention, estimate, room, sizes
from dreambooth.run.memory.estimate import Place
from dreambooth.system import console, processes
from dreambooth.system.devices import cards
from dreambooth.system.errors import Stopped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from dreambooth.config.config import Config
    from dreambooth.config.learning_sections import OptimizerName
    from dreambooth.config.run_sections import Precision
    from dreambooth.run.memory.estimate import Stage
    from dreambooth.run.memory.sizes import Sizes

_USABLE = 0.92  # of the free memory: an estimate may be too low, and allocators lose some
_LESS = 0.95  # of a run that had no room


def _state(optimizer: OptimizerName) -> float:
    """Return the bytes that an optimizer keeps for each weight."""
    from dreambooth.training.optimizers import table as optimizers

    return optimizers.OPTIMIZERS[optimizer].bytes_per_weight


def _impossible(sizes: Sizes | None) -> set[str]:
    """List the flags that this run refuses: for its processes, its card, and its model."""
    found = {"--early_update"} if processes.world_size() > 1 else set()
    if not processes.is_on_gpu() or cards.reason_against("fp16"):
        found.add("--mixed_precision")
    if sizes is not None and sizes.facts.kinds[sizes.facts.denoiser] == "joint":
        found |= {"--gradient_checkpointing", "--resolution"}
    return found


def _kernels(sizes: Sizes, precision: Precision) -> dict[int, str]:
    return attention.kernels(attention.head_sizes(sizes), cards.half(precision) is not None, cards.capability())


class Budget:
    """What a run needs, and what it has."""

    def __init__(
        self,
        config: Config,
        sizes: Sizes | None,
        place: Place,
        free: float | None,
        kernels: dict[int, str] | None = None,
        impossible: Collection[str] = (),
    ) -> None:
        self._config, self._sizes, self._place, self._free = config, sizes, place, free
        self._impossible = impossible  # flags that the run could not take
        self.attention = attention.in_words(kernels) if kernels else ""  # of a card

    @classmethod
    def of(cls, config: Config) -> Budget:
        """Read the model's sizes and the free memory; call it when Paddle is loaded."""
        found = sizes.read(config.model)
        impossible = _impossible(found)
        if not processes.is_on_gpu():
            return cls(config, found, estimate.CPU, room.free(), impossible=impossible)
        kernels = _kernels(found, config.memory.mixed_precision) if found else {}
        most_scores = math.inf if attention.QUADRATIC in kernels.values() else 0
        return cls(config, found, Place(is_card=True, most_scores=most_scores), room.free(), kernels, impossible)

    @property
    def peak(self) -> Stage | None:
        """The stage with the highest peak; None where the model's sizes are unknown."""
        return self._peak_of(self._config) if self._sizes else None

    @property
    def is_enough(self) -> bool:
        """Check whether the run fits, as far as that is known."""
        return self.peak is None or self._free is None or self.peak.total <= self._free * _USABLE

    def line(self) -> str:
        """Describe the peak, and what is free."""
        if self.peak is None:
            return "unknown for this model"
        stage, free = self.peak, f"; {console.amount(self._free)} free" if self._free is not None else ""
        kept, passing = console.amount(stage.kept), console.amount(stage.passing)
        shares = f"{kept} of weights and states, {passing} of gradients and activations"
        return f"about {console.amount(stage.total)} at the peak, in {stage.name}: {shares}{free}"

    def advice(self) -> str:
        """Name the nearest settings that fit and take less than these."""
        if self.peak is None or self._free is None:
            return (
                "less is taken by --train_batch_size 1, --gradient_checkpointing, --optimizer adafactor, --lora_rank 4"
            )
        most = min(self._free * _USABLE, self.peak.total * _LESS)
        fitting = advice.nearest(self._config, lambda other: self._peak_of(other).total, most, self._impossible)
        if not fitting:
            return "no setting of this tool makes it fit"
        return "what fits: " + ", or ".join(f"{flags} ({console.amount(peak)})" for flags, peak in fitting)

    def _peak_of(self, config: Config) -> Stage:
        assert self._sizes is not None
        return estimate.peak(config, self._sizes, self._place, _state(config.optimizer.optimizer))

    def warn(self) -> None:
        """Warn of a run that does not fit, before anything is loaded."""
        if not self.is_enough:
            assert self.peak is not None and self._free is not None
            console.warn(
                f"{self._where}: the run needs about {console.amount(self.peak.total)}, and"
                f" {console.amount(self._free)} are free; {self.advice()}"
            )

    @property
    def _where(self) -> str:
        return "the card's memory" if self._place.is_card else "memory"

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Raise an error of memory as one line: what fits, and the last checkpoint."""
        try:
            yield
        except Exception as error:
            if not console.is_want_of_memory(error):
                raise
            whole, _ = checkpoints.scan(self._config.saving.output_dir)
            kept = f"; {whole[-1].folder} is whole: --resume_from_checkpoint latest goes on with it" if whole else ""
            raise Stopped(f"out of memory; {self.advice()}{kept}", code=1) from error
