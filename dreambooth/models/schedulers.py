"""The schedulers that draw pictures: one table of their facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreambooth.system.types import Pipeline, Scheduler


@dataclass(frozen=True)
class SchedulerFacts:
    """The facts of a scheduler."""

    class_name: str  # in the library
    settings: Mapping[str, Any] = field(default_factory=dict)  # beside the model's own
    stochastic: bool = False  # draws new noise in every step, from Paddle's global generator
    scales_input: bool = False  # needs a pipeline that scales the denoiser's input


# by the name in the flags. UniPC, which the library has too, fails on float64.
SCHEDULERS = {
    "ddim": SchedulerFacts("DDIMScheduler", {"clip_sample": False}),  # latents are not bounded as pixels are
    "ddpm": SchedulerFacts("DDPMScheduler", {"clip_sample": False}, stochastic=True),
    "dpmsolver++": SchedulerFacts("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "euler": SchedulerFacts("EulerDiscreteScheduler", scales_input=True),
    "euler_a": SchedulerFacts("EulerAncestralDiscreteScheduler", stochastic=True, scales_input=True),
    "lms": SchedulerFacts("LMSDiscreteScheduler", scales_input=True),
    "pndm": SchedulerFacts("PNDMScheduler", {"skip_prk_steps": True}),
}
CLASSES = tuple(facts.class_name for facts in SCHEDULERS.values())


def set_scheduler(pipeline: Pipeline, name: str) -> None:
    """Give a pipeline another scheduler, with the noise schedule of its own."""
    import ppdiffusers

    facts = SCHEDULERS[name]
    pipeline.scheduler = getattr(ppdiffusers, facts.class_name).from_config(pipeline.scheduler.config, **facts.settings)


def is_stochastic(scheduler: Scheduler) -> bool:
    """Check whether a scheduler of the library draws new noise in every step."""
    name = type(scheduler).__name__
    return any(facts.stochastic for facts in SCHEDULERS.values() if facts.class_name == name)
