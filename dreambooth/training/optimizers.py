"""The optimizers that a run can use, and the schedule of its learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import paddle
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LRScheduler
from ppdiffusers.optimization import get_scheduler

from dreambooth.config.sections import OptimizerName, OptimizerSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from paddle import Tensor

    # groups of parameters, each with a factor on the learning rate
    Groups = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer: its construction, and its state for each parameter."""

    make: Callable[[OptimizerSettings, LRScheduler, Groups], Optimizer]
    accumulators: tuple[str, ...]  # Paddle's names of its state
    bytes_per_weight: float  # of its accumulators

    def accumulator_names(self, named: Mapping[str, Tensor], separator: str = ".") -> dict[str, str]:
        """Map a name for each accumulator of each parameter to the optimizer's own, which is automatic."""
        return {
            f"{name}{separator}{accumulator}": f"{parameter.name}_{accumulator}_0"
            for name, parameter in named.items()
            for accumulator in self.accumulators
        }


def _adamw(settings: OptimizerSettings, schedule: LRScheduler, groups: Groups) -> Optimizer:
    return paddle.optimizer.AdamW(
        learning_rate=schedule,
        parameters=list(groups),
        beta1=settings.adam_beta1,
        beta2=settings.adam_beta2,
        epsilon=settings.adam_epsilon,
        weight_decay=settings.adam_weight_decay,
    )


OPTIMIZERS: dict[OptimizerName, OptimizerSpec] = {
    # its two moments are float32
    "adamw": OptimizerSpec(_adamw, ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc"), bytes_per_weight=8),
}
DEFAULT: OptimizerName = "adamw"


def learning_rate_schedule(settings: OptimizerSettings, rate: float, steps: int) -> LRScheduler:
    """Make the library's schedule, counted in updates."""
    return get_scheduler(
        settings.lr_scheduler,
        learning_rate=rate,
        num_warmup_steps=settings.lr_warmup_steps,
        # polynomial divides by the steps after the warm-up
        num_training_steps=max(steps, settings.lr_warmup_steps + 1),
        num_cycles=settings.lr_num_cycles,
        power=settings.lr_power,
    )
