"""The schedulers that draw pictures: one table of their facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreambooth.system.types import Array, Pipeline, Scheduler


@dataclass(frozen=True)
class SchedulerFacts:
    """The facts of a scheduler."""

    class_name: str  # in the library
    settings: Mapping[str, Any] = field(default_factory=dict)  # beside the model's own
    stochastic: bool = False  # draws new noise in every step, from Paddle's global generator
    scales_input: bool = False  # needs a pipeline that scales the denoiser's input
    thresholds: bool = False  # can keep pixels in their range (Saharia et al. 2022, arXiv 2205.11487, section 2.3)


# by the name in the flags. UniPC, which the library has too, fails on float64.
SCHEDULERS = {
    "ddim": SchedulerFacts("DDIMScheduler", {"clip_sample": False}, thresholds=True),  # latents are not bounded
    "ddpm": SchedulerFacts("DDPMScheduler", {"clip_sample": False}, stochastic=True, thresholds=True),
    "dpmsolver++": SchedulerFacts("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}, thresholds=True),
    "euler": SchedulerFacts("EulerDiscreteScheduler", scales_input=True),
    "euler_a": SchedulerFacts("EulerAncestralDiscreteScheduler", stochastic=True, scales_input=True),
    "lms": SchedulerFacts("LMSDiscreteScheduler", scales_input=True),
    "pndm": SchedulerFacts("PNDMScheduler", {"skip_prk_steps": True}),
}
FLOW = "FlowMatchEulerDiscreteScheduler"  # of models that flow, which have no other
CLASSES = tuple(facts.class_name for facts in SCHEDULERS.values())


# of a noise schedule that ends in noise alone, as these two classes of the library know it (Lin et al. 2024, arXiv
# 2305.08891); drawing begins at its last step
_ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_KNOW_ZERO_SNR = ("DDIMScheduler", "DDPMScheduler")
_LEARNED, _FIXED = ("learned", "learned_range"), "fixed_small"  # kinds of variances
_LEAST_KEPT = 2.0**-24  # of the signal's power at the last step, for solvers that divide by it


def set_scheduler(pipeline: Pipeline, name: str) -> None:
    """Give a pipeline another scheduler, with the noise schedule of its own; a flow keeps its own."""
    import ppdiffusers

    facts, own = SCHEDULERS[name], pipeline.scheduler
    if type(own).__name__ == FLOW:
        return
    settings = dict(facts.settings)
    if has_zero_snr(own) and facts.class_name not in _KNOW_ZERO_SNR:
        settings["trained_betas"] = _betas_of_zero_snr(own).tolist()
    pipeline.scheduler = getattr(ppdiffusers, facts.class_name).from_config(own.config, **settings)


def has_zero_snr(scheduler: Scheduler) -> bool:
    """Check whether a scheduler's noise schedule is to end in noise alone."""
    return bool(scheduler.config.get("rescale_betas_zero_snr"))


def set_zero_snr(pipeline: Pipeline) -> None:
    """Give a pipeline a scheduler whose noise schedule ends in noise alone."""
    from ppdiffusers import DDIMScheduler

    settings = {**_ZERO_SNR, **SCHEDULERS["ddim"].settings}
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **settings)


def fix_variance(pipeline: Pipeline) -> None:
    """Give a pipeline whose denoiser predicts the variance of its steps a fixed one, since that does not train."""
    own = pipeline.scheduler
    if own.config.get("variance_type") in _LEARNED:
        pipeline.scheduler = own.from_config(own.config, variance_type=_FIXED)


def as_saved(scheduler: Scheduler, settings: Mapping[str, Any]) -> Scheduler:
    """Return the scheduler to save: with the settings of the model's own, but for what a training changes.

    That is the end of its noise schedule, and a variance that it predicted.
    """
    more = {**_ZERO_SNR, **SCHEDULERS["ddim"].settings} if has_zero_snr(scheduler) else {}
    if settings.get("variance_type") in _LEARNED:
        more["variance_type"] = _FIXED
    return scheduler.from_config({**settings, **more})


def _betas_of_zero_snr(scheduler: Scheduler) -> Array:
    """Rescale a scheduler's noise schedule to end in noise alone; return its betas.

    This is algorithm 1 of Lin et al. A schedule that is so already stays as it is.
    """
    import numpy as np

    roots = np.sqrt(np.asarray(scheduler.alphas_cumprod, np.float64))
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    kept = np.maximum(roots**2, _LEAST_KEPT)
    return 1 - kept / np.concatenate([[1.0], kept[:-1]])


def is_stochastic(scheduler: Scheduler) -> bool:
    """Check whether a scheduler of the library draws new noise in every step."""
    name = type(scheduler).__name__
    return any(facts.stochastic for facts in SCHEDULERS.values() if facts.class_name == name)
