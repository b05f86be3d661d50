"""Diffusion processes: the noise, the timesteps, the target of the prediction, and the weight of its error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import paddle
from ppdiffusers import DDPMScheduler

from dreambooth.config.learning_sections import ObjectiveSettings
from dreambooth.data import randomness
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paddle import Tensor
    from ppdiffusers import SchedulerMixin

    from dreambooth.system.types import Array, Key

_MODEL = "--pretrained_model_name_or_path"


class Diffusion(ABC):
    """A way from clean latents to noise; each random number depends on the seed and the example's key alone."""

    def __init__(self, settings: ObjectiveSettings | None = None) -> None:
        self._settings = settings or ObjectiveSettings()

    def noise(self, seed: int, keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
        """Draw standard normal noise [n, *shape].

        A noise offset adds, in each channel, a number that is the same at all places, so that the network learns to
        change the brightness of a whole picture (Guttenberg 2023, "Diffusion with Offset Noise").
        """
        noise = randomness.normal(seed, "noise", keys, tuple(shape))
        if strength := self._settings.noise_offset:
            places = [1] * (len(shape) - 1)
            noise = noise + np.float32(strength) * randomness.normal(seed, "noise offset", keys, (shape[0], *places))
        return paddle.to_tensor(noise)

    def perturbed(self, noise: Tensor, seed: int, keys: Sequence[Key]) -> Tensor:
        """Add a share of further noise, for the network's input alone.

        So the network sees in training what its own errors make of its input in drawing (Ning et al. 2023, arXiv
        2301.11706).
        """
        if not (share := self._settings.input_perturbation):
            return noise
        return (
            noise
            + paddle.to_tensor(randomness.normal(seed, "input perturbation", keys, tuple(noise.shape[1:]))) * share
        )

    @abstractmethod
    def sample_t(self, seed: int, keys: Sequence[Key]) -> Tensor:
        """Draw the timesteps [n]: int64 steps, or float32 in (0, 1)."""

    @abstractmethod
    def t_at(self, shares: Array) -> Tensor:
        """Return the timesteps at shares [n] of the way from the least noise to the most."""

    @abstractmethod
    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mix noise into clean latents, in the share that the timesteps give."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Compute the denoiser's target."""

    @abstractmethod
    def last(self, count: int) -> Tensor:
        """Return `count` times the timestep with the most noise."""

    @abstractmethod
    def clean(self, noisy: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Return the clean latents that a prediction takes noisy ones for."""

    def weight(self, t: Tensor) -> Tensor | None:
        """Compute the weight [n] of each example's error; None weights all alike."""
        return None


class Discrete(Diffusion):
    """The Markov chain of DDPM (Ho et al. 2020), whose denoiser predicts the noise or the velocity."""

    def __init__(self, scheduler: DDPMScheduler, settings: ObjectiveSettings | None = None) -> None:
        super().__init__(settings)
        self._scheduler = scheduler
        self._first = self._settings.min_timestep
        self._end = self._settings.max_timestep or scheduler.config.num_train_timesteps
        self._predicts_velocity = scheduler.config.prediction_type == "v_prediction"

    @override
    def sample_t(self, seed: int, keys: Sequence[Key]) -> Tensor:
        """Draw the timesteps [n] as int64 steps of the chain, all alike but for a shift."""
        count, shift = self._end - self._first, self._settings.timestep_shift
        if shift == 1:
            return paddle.to_tensor(self._first + randomness.integers(seed, "timestep", keys, count))
        shares = np.array([randomness.uniform(seed, "timestep", key) for key in keys])
        # as of Stable Diffusion 3 (Esser et al. 2024, equation 23)
        return self.t_at(shift * shares / (1 + (shift - 1) * shares))

    @override
    def t_at(self, shares: Array) -> Tensor:
        """Return the int64 steps at shares [n] of the steps that are trained on."""
        count = self._end - self._first
        return paddle.to_tensor(self._first + np.minimum((np.asarray(shares) * count).astype(np.int64), count - 1))

    @override
    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mix noise into clean latents (Ho et al. 2020, equation 4)."""
        return self._scheduler.add_noise(clean, noise, t)

    @override
    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the noise, or the velocity (Salimans & Ho 2022) where the scheduler's settings have it so."""
        if self._predicts_velocity:
            return self._scheduler.get_velocity(clean, noise, t)
        return noise

    @override
    def last(self, count: int) -> Tensor:
        """Return `count` times the last int64 step of the chain."""
        return paddle.full([count], self._scheduler.config.num_train_timesteps - 1, "int64")

    @override
    def clean(self, noisy: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Solve equation 4 of Ho et al. 2020, or the velocity's equation of Salimans & Ho 2022, for them."""
        kept = np.asarray(self._scheduler.alphas_cumprod, np.float64)[t.numpy()]
        shape = [-1, *[1] * (noisy.ndim - 1)]
        roots = np.sqrt([kept, 1 - kept]).astype(np.float32)
        signal, spread = (paddle.to_tensor(root).reshape(shape) for root in roots)
        return (
            signal * noisy - spread * prediction if self._predicts_velocity else (noisy - spread * prediction) / signal
        )

    @override
    def weight(self, t: Tensor) -> Tensor | None:
        """Compute the weight [n] of Min-SNR (Hang et al. 2023, section 3.4), with --snr_gamma.

        It is a weight on the error of the clean latents, min(SNR, gamma). The error of the noise is SNR times that, and
        the error of the velocity is SNR + 1 times that.
        """
        if (gamma := self._settings.snr_gamma) is None:
            return None
        ratio = self._signal_to_noise()[t.numpy()]
        with np.errstate(divide="ignore"):
            weights = np.minimum(ratio, gamma) / (ratio + 1 if self._predicts_velocity else ratio)
        return paddle.to_tensor(weights.astype(np.float32))

    def _signal_to_noise(self) -> Array:
        """Return the ratio of signal to noise of each step, in power."""
        kept = np.asarray(self._scheduler.alphas_cumprod, np.float64)
        return kept / (1 - kept)


def diffusion_for(
    scheduler: SchedulerMixin, settings: ObjectiveSettings | None = None, has_channels: bool = True
) -> Diffusion:
    """Choose the process of a model by its scheduler's settings.

    `has_channels` is whether its latents are [n, channels, height, width].
    """
    settings = settings or ObjectiveSettings()
    # the model's own scheduler may be one that only draws
    changes = {"rescale_betas_zero_snr": True} if settings.zero_terminal_snr else {}
    chain = DDPMScheduler.from_config(scheduler.config, **changes)
    kind, steps = chain.config.prediction_type, chain.config.num_train_timesteps
    if kind not in ("epsilon", "v_prediction"):
        raise BadInput(
            f"{_MODEL}: its scheduler's prediction_type is {kind!r}; give a model that predicts epsilon or v_prediction"
        )
    if settings.zero_terminal_snr and kind == "epsilon":
        raise BadInput(
            "--zero_terminal_snr: this model predicts the noise, which tells nothing at a step of noise alone; it is"
            " for models that predict the velocity, such as Stable Diffusion 2.1 at 768 pixels"
        )
    if settings.noise_offset and not has_channels:
        raise BadInput("--noise_offset: the latents of this model have no channels; leave it out")
    for name in ("min_timestep", "max_timestep"):
        if (value := getattr(settings, name)) is not None and value >= steps + (name == "max_timestep"):
            raise BadInput(f"--{name} {value}: the model has {steps} timesteps")
    return Discrete(chain, settings)
