"""The loss against numbers worked out by hand."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from dreambooth.data.concepts import MicroBatch
from dreambooth.training.objective import loss

# errors 1, 2 | 3, 4: squares average to 2.5 for the subject's half, 12.5 for the class's, 7.5 over both
PREDICTION = paddle.to_tensor([[1.0, 2.0], [3.0, 4.0]])
TARGET = paddle.zeros([2, 2])


def parts_of(prediction, target, prior, prior_weight=1.0, weight=None, mask=None):
    batch = MicroBatch((), prior)
    return loss.dreambooth_loss(loss.example_errors(prediction, target, mask), batch, weight, prior_weight)


def numbers_of(parts):
    return {name: float(part) for name, part in parts.items()}


def test_without_a_prior_it_is_the_mean_square_of_the_whole_batch():
    assert numbers_of(parts_of(PREDICTION, TARGET, prior=0)) == {"loss": 7.5, "instance_loss": 7.5}


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_the_losses_of_a_micro_batchs_parts_add_up(workers):
    errors, weight = paddle.arange(12, dtype="float32").reshape([4, 3]), paddle.to_tensor([1.0, 2.0, 3.0, 4.0])
    batch = MicroBatch(tuple(range(4)), prior=1)
    whole, total, first = numbers_of(loss.dreambooth_loss(errors, batch, weight, 0.5)), {}, 0
    for number in range(workers):
        part = batch.part((number, workers))
        rows = slice(first, first := first + len(part.examples))
        for name, value in numbers_of(loss.dreambooth_loss(errors[rows], part, weight[rows], 0.5)).items():
            total[name] = total.get(name, 0) + value
    assert total == pytest.approx(whole)


@pytest.mark.parametrize("weight, total", [(0, 2.5), (0.5, 8.75), (1, 15.0), (2, 27.5)])
def test_the_class_pictures_loss_is_added_with_its_weight(weight, total):
    found = numbers_of(parts_of(PREDICTION, TARGET, 1, weight))
    assert found == {"loss": total, "instance_loss": 2.5, "prior_loss": 12.5}


def test_each_part_is_averaged_over_all_of_its_own_numbers():
    prediction = paddle.concat([paddle.full([3, 4, 3, 3], 2.0), paddle.full([1, 4, 3, 3], 3.0)])
    parts = numbers_of(parts_of(prediction, paddle.full([4, 4, 3, 3], 1.0), prior=1))
    assert parts == {"instance_loss": 1.0, "prior_loss": 4.0, "loss": 5.0}


def test_with_weight_0_the_class_pictures_give_no_gradient():
    prediction = PREDICTION.clone()
    prediction.stop_gradient = False
    parts_of(prediction, TARGET, 1, 0)["loss"].backward()
    assert prediction.grad.tolist() == [[1.0, 2.0], [0.0, 0.0]]  # 2 x error / 2 numbers


def test_half_precision_goes_in_and_float32_comes_out():
    prediction = paddle.full([2, 1], 300.0).astype("float16")  # its square is more than float16 can hold
    for prior in (0, 1):
        for part in parts_of(prediction, paddle.zeros([2, 1], dtype="float16"), prior).values():
            assert part.dtype == paddle.float32 and np.isfinite(float(part))
    assert float(parts_of(prediction, paddle.zeros_like(prediction), 0)["loss"]) == 90000.0


@pytest.mark.parametrize("prior", [0, 2])
def test_loss_and_gradients_have_the_bits_of_the_librarys_means_over_the_parts(prior):
    """A mean of the examples' means has others."""
    numbers = np.random.default_rng(1).standard_normal((2, 4, 4, 31, 29)).astype(np.float32)
    grads, losses = [], []
    for mine in (True, False):
        prediction, target = paddle.to_tensor(numbers[0], stop_gradient=False), paddle.to_tensor(numbers[1])
        if mine:
            total = parts_of(prediction, target, prior, 0.7)["loss"]
        elif prior:
            total = F.mse_loss(prediction[:2], target[:2]) + 0.7 * F.mse_loss(prediction[2:], target[2:])
        else:
            total = F.mse_loss(prediction, target)
        total.backward()
        losses.append(total.numpy())
        grads.append(prediction.grad.numpy())
    assert losses[0] == losses[1] and np.array_equal(*grads)


def test_a_weight_counts_for_its_own_example():
    parts = numbers_of(parts_of(PREDICTION, TARGET, 1, 10.0, weight=paddle.to_tensor([2.0, 0.5])))
    assert parts == {"instance_loss": 5.0, "prior_loss": 6.25, "loss": 67.5}


def test_outside_of_its_mask_an_example_has_no_error_and_yet_counts_as_much():
    prediction, target = paddle.to_tensor([[[[1.0, 5.0]]], [[[3.0, 7.0]]]]), paddle.zeros([2, 1, 1, 2])
    mask = paddle.to_tensor([[[[1.0, 0.0]]], [[[1.0, 1.0]]]])
    errors = loss.example_errors(prediction, target, mask)
    assert errors.tolist() == [[[[2.0, 0.0]]], [[[9.0, 49.0]]]]
    assert numbers_of(parts_of(prediction, target, 1, mask=mask))["instance_loss"] == 1.0


def test_the_huber_loss_is_square_for_small_errors_and_straight_for_large_ones():
    errors = loss.example_errors(paddle.to_tensor([[1e-2, 1000.0]]), paddle.zeros([1, 2]), huber=0.5).numpy()[0]
    assert errors[0] == pytest.approx(1e-4, rel=1e-3) and errors[1] == pytest.approx(2 * 0.5 * 999.5, rel=1e-5)
    exact = [2 * 0.5 * ((each**2 + 0.25) ** 0.5 - 0.5) for each in (1.0, 2.0)]
    assert loss.example_errors(PREDICTION[:1], TARGET[:1], huber=0.5)[0].tolist() == pytest.approx(exact)
