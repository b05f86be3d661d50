"""The settings of drawing, which infer.py, dreambooth.metrics and a training run share."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.config.sections import SchedulerName
from dreambooth.system.types import Size

GUIDANCE = 7.5


@dataclass(frozen=True)
class DrawSettings:
    """How pictures are drawn."""

    seed: int
    purpose: str  # of the random numbers
    size: Size
    steps: int
    guidance: float = GUIDANCE
    scheduler: SchedulerName | None = None  # None: the model's own
    batch_size: int = 4
    negative_prompt: str | None = None
    # the flags that errors name
    steps_flag: str = "--num_inference_steps"
    scheduler_flag: str = "--scheduler"
