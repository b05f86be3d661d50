"""The diffusion process: its random numbers, and its noise and targets against closed formulas."""

import numpy as np
import paddle
import pytest
from ppdiffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler

from dreambooth.data import randomness
from dreambooth.system.errors import BadInput
from dreambooth.training.objective import diffusion
from dreambooth.training.objective.diffusion import Diffusion, Discrete

KEYS = [(0, 0, 0), (0, 1, 0), (0, 0, 1)]
T = [0, 500, 999]
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
KEPT = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[T][:, None, None, None]  # alpha bar


def process(kind=DDPMScheduler, **settings):
    return diffusion.diffusion_for(kind(**{**BETAS, **settings}))


def clean_and_noise():
    numbers = np.random.default_rng(0)
    return numbers.standard_normal((3, 4, 2, 2), np.float32), numbers.standard_normal((3, 4, 2, 2), np.float32)


def test_noise_and_timesteps_are_those_of_the_seed_the_purpose_and_the_key():
    noise, t = process().noise(7, KEYS, [4, 2, 2]), process().sample_t(7, KEYS)
    assert np.array_equal(noise.numpy(), randomness.normal(7, "noise", KEYS, (4, 2, 2)))
    assert np.array_equal(t.numpy(), randomness.integers(7, "timestep", KEYS, 1000)) and t.dtype == paddle.int64
    assert np.array_equal(process().noise(7, KEYS[1:2], [4, 2, 2])[0].numpy(), noise[1].numpy())
    assert process(num_train_timesteps=10).sample_t(7, [(n,) for n in range(99)]).max() == 9


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
def test_noise_is_mixed_in_as_the_models_betas_say_whatever_draws_with_it(kind):
    clean, noise = clean_and_noise()
    noisy = process(kind).add_noise(*map(paddle.to_tensor, (clean, noise, T)))
    np.testing.assert_allclose(noisy.numpy(), KEPT**0.5 * clean + (1 - KEPT) ** 0.5 * noise, atol=1e-6)


def test_the_noise_is_the_target_of_an_epsilon_model():
    clean, noise = map(paddle.to_tensor, clean_and_noise())
    target = process(prediction_type="epsilon").target(clean, noise, paddle.to_tensor(T))
    assert np.array_equal(target.numpy(), noise.numpy())


def test_the_velocity_is_the_target_of_a_v_prediction_model():
    clean, noise = clean_and_noise()
    target = process(prediction_type="v_prediction").target(*map(paddle.to_tensor, (clean, noise, T)))
    np.testing.assert_allclose(target.numpy(), KEPT**0.5 * noise - (1 - KEPT) ** 0.5 * clean, atol=1e-6)


def test_all_examples_count_alike():
    assert process().weight(paddle.to_tensor(T)) is None


def test_the_scheduler_decides_on_the_process_and_what_it_can_not_train_is_refused():
    assert isinstance(process(), Discrete)
    with pytest.raises(BadInput, match="prediction_type is 'sample'"):
        process(prediction_type="sample")


class Flow(Diffusion):
    """Rectified flow, whose t is no step but a share."""

    def sample_t(self, seed, keys):
        return paddle.to_tensor([randomness.stream(seed, "share", *key).random(dtype=np.float32) for key in keys])

    def add_noise(self, clean, noise, t):
        return clean + t.reshape([-1, 1, 1, 1]) * (noise - clean)

    def target(self, clean, noise, t):
        return noise - clean


def test_a_process_may_have_a_t_between_0_and_1():
    flow, (clean, noise) = Flow(), map(paddle.to_tensor, clean_and_noise())
    t = flow.sample_t(0, KEYS)
    assert t.dtype == paddle.float32 and ((t > 0) & (t < 1)).all()
    noisy, target = flow.add_noise(clean, noise, t), flow.target(clean, noise, t)
    np.testing.assert_allclose((noisy - t.reshape([-1, 1, 1, 1]) * target).numpy(), clean.numpy(), atol=1e-6)
