"""Diffusion processes: the noise, the timesteps, the target of the prediction, and the weight of its error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import paddle
from ppdiffusers import DDPMScheduler

from dreambooth.config.learning_sections import ObjectiveSettings, TimestepSampling
from dreambooth.data import randomness
from dreambooth.models import schedulers
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

    def _shares(self, seed: int, keys: Sequence[Key], sampling: TimestepSampling) -> Array:
        """Draw the shares [n] of the way from the least noise to the most; `sampling` is the model's own."""
        if (self._settings.timestep_sampling or sampling) == "uniform":
            shares = np.array([randomness.uniform(seed, "timestep", key) for key in keys])
        else:
            shares = 1 / (1 + np.exp(-randomness.normal(seed, "timestep", keys, ()).astype(np.float64)))
        shift = self._settings.timestep_shift
        return shift * shares / (1 + (shift - 1) * shares)  # as of Stable Diffusion 3 (Esser et al. 2024, equation 23)

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
        if self._settings.timestep_shift == 1 and self._settings.timestep_sampling != "logit_normal":
            count = self._end - self._first
            return paddle.to_tensor(self._first + randomness.integers(seed, "timestep", keys, count))
        return self.t_at(self._shares(seed, keys, "uniform"))

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


class Flow(Diffusion):
    """The straight way from latents to noise, whose direction the denoiser predicts (Esser et al. 2024, section 2).

    A timestep is a float, a thousand times the share of noise.
    """

    def __init__(self, scheduler: SchedulerMixin, settings: ObjectiveSettings | None = None) -> None:
        super().__init__(settings)
        self._count = scheduler.config.num_train_timesteps
        self._timesteps = np.asarray(scheduler.timesteps, np.float32)[::-1]  # the least noise first
        self._first, self._end = self._settings.min_timestep, self._settings.max_timestep or self._count

    @override
    def sample_t(self, seed: int, keys: Sequence[Key]) -> Tensor:
        """Draw the timesteps [n] as float32, most of them in the middle (Esser et al. 2024, section 3.1)."""
        return self.t_at(self._shares(seed, keys, "logit_normal"))

    @override
    def t_at(self, shares: Array) -> Tensor:
        """Return the timesteps of the scheduler, shifted as its settings have it, at shares [n] of those in use."""
        count = self._end - self._first
        steps = self._first + np.minimum((np.asarray(shares) * count).astype(np.int64), count - 1)
        return paddle.to_tensor(self._timesteps[steps])

    @override
    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Go from clean latents towards the noise, by the share that the timesteps give."""
        share = self._share(t, clean)
        return share * noise + (1 - share) * clean

    @override
    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the direction of the way."""
        return noise - clean

    @override
    def last(self, count: int) -> Tensor:
        """Return `count` times the timestep of noise alone."""
        return paddle.full([count], float(self._timesteps[-1]), "float32")

    @override
    def clean(self, noisy: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Go back along a predicted direction, to its beginning."""
        return noisy - self._share(t, noisy) * prediction

    def _share(self, t: Tensor, latents: Tensor) -> Tensor:
        return (t / self._count).reshape([-1, *[1] * (latents.ndim - 1)])


def diffusion_for(
    scheduler: SchedulerMixin, settings: ObjectiveSettings | None = None, has_channels: bool = True
) -> Diffusion:
    """Choose the process of a model by its scheduler's settings.

    `has_channels` is whether its latents are [n, channels, height, width].
    """
    settings = settings or ObjectiveSettings()
    if type(scheduler).__name__ == schedulers.FLOW:
        return _flow_for(scheduler, settings)
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
    _check_timesteps(settings, steps)
    return Discrete(chain, settings)


def _flow_for(scheduler: SchedulerMixin, settings: ObjectiveSettings) -> Flow:
    """Make the process of a model that flows; refuse what only a chain of noise has."""
    for flag, is_given in (
        ("--snr_gamma", settings.snr_gamma is not None),
        ("--zero_terminal_snr", settings.zero_terminal_snr),
    ):
        if is_given:
            raise BadInput(
                f"{flag}: not for a model that flows from noise to latents, which ends in noise alone; leave it out"
            )
    _check_timesteps(settings, scheduler.config.num_train_timesteps)
    return Flow(scheduler.from_config(scheduler.config), settings)


def _check_timesteps(settings: ObjectiveSettings, steps: int) -> None:
    """Refuse timesteps that a model has not."""
    for name in ("min_timestep", "max_timestep"):
        if (value := getattr(settings, name)) is not None and value >= steps + (name == "max_timestep"):
            raise BadInput(f"--{name} {value}: the model has {steps} timesteps")
