"""Diffusion processes: the noise, the timesteps, the target of the prediction, and the weight of its error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import paddle
from ppdiffusers import DDPMScheduler

from dreambooth.data import randomness
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paddle import Tensor
    from ppdiffusers import SchedulerMixin

    from dreambooth.system.types import Key


class Diffusion(ABC):
    """A way from clean latents to noise; each random number depends on the seed and the example's key alone."""

    def noise(self, seed: int, keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
        """Draw standard normal noise [n, *shape]."""
        return paddle.to_tensor(randomness.normal(seed, "noise", keys, tuple(shape)))

    @abstractmethod
    def sample_t(self, seed: int, keys: Sequence[Key]) -> Tensor:
        """Draw the timesteps [n]: int64 steps, or float32 in (0, 1)."""

    @abstractmethod
    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mix noise into clean latents, in the share that the timesteps give."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Compute the denoiser's target."""

    def weight(self, t: Tensor) -> Tensor | None:
        """Compute the weight [n] of each example's error; None weights all alike."""
        return None


class Discrete(Diffusion):
    """The Markov chain of DDPM (Ho et al. 2020), whose denoiser predicts the noise or the velocity."""

    def __init__(self, scheduler: DDPMScheduler) -> None:
        self._scheduler = scheduler

    @override
    def sample_t(self, seed: int, keys: Sequence[Key]) -> Tensor:
        """Draw the timesteps [n] as int64 steps of the chain."""
        steps = self._scheduler.config.num_train_timesteps
        return paddle.to_tensor(randomness.integers(seed, "timestep", keys, steps))

    @override
    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mix noise into clean latents (Ho et al. 2020, equation 4)."""
        return self._scheduler.add_noise(clean, noise, t)

    @override
    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the noise, or the velocity (Salimans & Ho 2022) where the scheduler's settings have it so."""
        if self._scheduler.config.prediction_type == "v_prediction":
            return self._scheduler.get_velocity(clean, noise, t)
        return noise


def diffusion_for(scheduler: SchedulerMixin) -> Diffusion:
    """Choose the process of a model by its scheduler's settings."""
    # the model's own scheduler may be one that only draws
    chain = DDPMScheduler.from_config(scheduler.config)
    if chain.config.prediction_type not in ("epsilon", "v_prediction"):
        raise BadInput(
            f"--pretrained_model_name_or_path: its scheduler's prediction_type is {chain.config.prediction_type!r};"
            " give a model that predicts epsilon or v_prediction"
        )
    return Discrete(chain)
