"""The loss against numbers worked out by hand."""

import numpy as np
import paddle
import pytest
from ppdiffusers import DDPMScheduler

from dreambooth.training import diffusion, loss

# errors 1, 2 | 3, 4: squares average to 2.5 for the subject's half, 12.5 for the class's, 7.5 over both
PREDICTION = paddle.to_tensor([[1.0, 2.0], [3.0, 4.0]])
TARGET = paddle.zeros([2, 2])


def test_without_a_prior_it_is_the_mean_square_of_the_whole_batch():
    parts = loss.dreambooth_loss(PREDICTION, TARGET)
    assert {name: float(part) for name, part in parts.items()} == {"loss": 7.5, "instance_loss": 7.5}


@pytest.mark.parametrize("weight, total", [(0, 2.5), (0.5, 8.75), (1, 15.0), (2, 27.5)])
def test_the_class_pictures_loss_is_added_with_its_weight(weight, total):
    parts = loss.dreambooth_loss(PREDICTION, TARGET, weight)
    assert {name: float(part) for name, part in parts.items()} == {
        "loss": total,
        "instance_loss": 2.5,
        "prior_loss": 12.5,
    }


def test_each_half_is_averaged_over_all_of_its_own_numbers():
    prediction = paddle.concat([paddle.full([2, 4, 3, 3], 2.0), paddle.full([2, 4, 3, 3], 3.0)])
    parts = loss.dreambooth_loss(prediction, paddle.full([4, 4, 3, 3], 1.0), 1.0)
    assert (float(parts["instance_loss"]), float(parts["prior_loss"]), float(parts["loss"])) == (1.0, 4.0, 5.0)


def test_with_weight_0_the_class_pictures_give_no_gradient():
    prediction = PREDICTION.clone()
    prediction.stop_gradient = False
    loss.dreambooth_loss(prediction, TARGET, 0)["loss"].backward()
    assert prediction.grad.tolist() == [[1.0, 2.0], [0.0, 0.0]]  # 2 x error / 2 numbers


def test_half_precision_goes_in_and_float32_comes_out():
    prediction = paddle.full([2, 1], 300.0).astype("float16")  # its square is more than float16 can hold
    for weight in (None, 1.0):
        for part in loss.dreambooth_loss(prediction, paddle.zeros([2, 1], dtype="float16"), weight).values():
            assert part.dtype == paddle.float32 and np.isfinite(float(part))
    assert float(loss.dreambooth_loss(prediction, paddle.zeros_like(prediction))["loss"]) == 90000.0


def latents_and_noise():
    numbers = np.random.default_rng(0)
    return numbers.standard_normal((3, 4, 2, 2), np.float32), numbers.standard_normal((3, 4, 2, 2), np.float32)


def test_the_noise_is_the_target_of_an_epsilon_model():
    latents, noise = map(paddle.to_tensor, latents_and_noise())
    schedule = DDPMScheduler(prediction_type="epsilon")
    wanted = diffusion.target(schedule, latents, noise, paddle.to_tensor([0, 500, 999]))
    assert np.array_equal(wanted.numpy(), noise.numpy())


def test_the_velocity_is_the_target_of_a_v_prediction_model():
    latents, noise = latents_and_noise()
    schedule = DDPMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear")
    timesteps = [0, 500, 999]
    wanted = diffusion.target(schedule, paddle.to_tensor(latents), paddle.to_tensor(noise), paddle.to_tensor(timesteps))
    for row, timestep in enumerate(timesteps):
        kept = float(schedule.alphas_cumprod[timestep])
        alpha, sigma = kept**0.5, (1 - kept) ** 0.5
        assert np.allclose(wanted[row].numpy(), alpha * noise[row] - sigma * latents[row], atol=1e-6)
