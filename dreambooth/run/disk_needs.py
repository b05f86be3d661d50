"""The disk that a run needs: for its checkpoints and its result, beside its log and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dreambooth.system import console
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dreambooth.config.config import Config
    from dreambooth.models.family.base import Family
    from dreambooth.run.planning import Plan
    from dreambooth.system.types import Network

_BYTES = 4  # of a number in float32


class Needs(NamedTuple):
    """The bytes that a run writes: of a checkpoint, how many of them it has at once, and of the result."""

    checkpoint: float
    checkpoints: int
    result: float

    @property
    def total(self) -> float:
        """The bytes of all together."""
        return self.checkpoint * self.checkpoints + self.result

    @override
    def __str__(self) -> str:
        several = "s" if self.checkpoints > 1 else ""
        more = (
            f", {self.checkpoints} checkpoint{several} of {console.amount(self.checkpoint)}" if self.checkpoints else ""
        )
        return f"{console.amount(self.total)}: the result {console.amount(self.result)}{more}"


def needs(config: Config, plan: Plan, family: Family) -> Needs:
    """Estimate what a run writes."""
    from dreambooth.training.optimizers import table as optimizers

    saving, start = config.saving, plan.resumed.state["step"] if plan.resumed else 0
    trained = _parameters(family.trained().values())
    numbers = 1 + (config.optimizer.ema_decay is not None)
    checkpoint = trained * (numbers * _BYTES + optimizers.OPTIMIZERS[config.optimizer.optimizer].bytes_per_weight)
    count = plan.steps // saving.save_steps - start // saving.save_steps
    count += saving.last_checkpoint and plan.steps % saving.save_steps > 0
    if saving.checkpoints_total_limit:
        count = min(count, saving.checkpoints_total_limit + 1)  # the oldest goes when the newest is whole
    pipeline = _parameters(family.networks().values()) if config.result == "pipeline" else 0
    return Needs(checkpoint, count, _BYTES * (pipeline + (trained if config.leaves_networks else 0)))


def _parameters(networks: Iterable[Network]) -> int:
    """Count the parameters of several networks."""
    return sum(each.size for network in networks for each in network.parameters())
