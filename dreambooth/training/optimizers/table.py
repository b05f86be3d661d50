"""The optimizers that a run can use, and the schedule of its learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import paddle
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LRScheduler
from ppdiffusers.optimization import get_scheduler

from dreambooth.config.learning_sections import OptimizerName, OptimizerSettings
from dreambooth.training.optimizers.adaptive import Lion, Prodigy
from dreambooth.training.optimizers.custom import Groups
from dreambooth.training.optimizers.lean import Adafactor, AdamW8Bit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from paddle import Tensor


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer: its construction, and its state for each parameter."""

    make: Callable[[OptimizerSettings, LRScheduler, Groups], Optimizer]
    accumulators: tuple[str, ...]  # Paddle's names of its state
    bytes_per_weight: float  # of its accumulators
    shared: str | None = None  # an accumulator of the first parameter that is for all

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
    # a byte for each moment, and two scales for a block of 256
    "adamw8bit": OptimizerSpec(
        AdamW8Bit, ("moment1", "moment2", "scale1", "scale2", "steps"), bytes_per_weight=2 + 8 / 256
    ),
    # of Stable Diffusion's UNet, rows and columns are a hundredth of the weights
    "adafactor": OptimizerSpec(Adafactor, ("row", "column", "second", "steps"), bytes_per_weight=0.04),
    # two moments, the average of the gradients, and the weights at the start
    "prodigy": OptimizerSpec(
        Prodigy, ("moment1", "moment2", "average", "start", "steps", "level", "numerator"), 16, "level"
    ),
    "lion": OptimizerSpec(Lion, ("moment1", "steps"), bytes_per_weight=4),
}


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
