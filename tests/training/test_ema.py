"""The average of the weights: its formula, its place in the networks, and its state."""

import numpy as np
import paddle
import pytest

from dreambooth.training.ema import Average


def weights_of(value):
    return {"unet.weight": paddle.full([2, 3], float(value)), "unet.bias": paddle.full([3], -float(value))}


def average_of(decay, values):
    named = weights_of(0)
    average = Average(decay, named)
    for value in values:
        for name, new in weights_of(value).items():
            paddle.assign(new, named[name])
        average.add()
    return named, average


@pytest.mark.parametrize("decay", [0.5, 0.97])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_later_updates_count_more_by_the_decay(decay, count):
    values = np.random.default_rng(0).standard_normal(count)
    named, average = average_of(decay, values)
    expected = np.average(values, weights=decay ** np.arange(count)[::-1])
    with average.in_place():
        np.testing.assert_allclose(named["unet.weight"].numpy(), np.full([2, 3], expected), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(named["unet.bias"].numpy(), np.full([3], -expected), rtol=1e-5, atol=1e-6)
    assert np.array_equal(named["unet.bias"].numpy(), np.full([3], -values[-1], "float32"))


def test_the_weights_come_back_bit_for_bit_also_after_an_error_and_in_the_same_memory():
    named, average = average_of(0.9, [0.1, 0.7])
    before = {name: each.numpy().copy() for name, each in named.items()}
    addresses = {name: each.data_ptr() for name, each in named.items()}
    for _ in range(2):
        with pytest.raises(KeyError), average.in_place():
            assert not np.array_equal(named["unet.weight"].numpy(), before["unet.weight"])
            raise KeyError
        for name, each in named.items():
            assert np.array_equal(each.numpy(), before[name]) and each.data_ptr() == addresses[name]


def test_without_a_decay_nothing_is_kept():
    named, average = average_of(None, [1, 2])
    assert average.stateful == {}
    with average.in_place():
        assert float(named["unet.weight"].max()) == 2
    # nor before the first update
    with Average(0.9, named).in_place():
        assert float(named["unet.weight"].max()) == 2


def test_a_restored_average_goes_on_bit_for_bit():
    numbers = [0.3, 0.1, 0.4, 0.1, 0.5]
    _, whole = average_of(0.8, numbers)
    _, first = average_of(0.8, numbers[:2])
    tensors, state = first.state()
    named = weights_of(9)
    second = Average(0.8, named)
    second.restore({name: each.numpy() for name, each in tensors.items()}, state)
    for value in numbers[2:]:
        for name, new in weights_of(value).items():
            paddle.assign(new, named[name])
        second.add()
    assert second.state()[1] == whole.state()[1] == {"count": 5}
    for name, each in whole.state()[0].items():
        assert np.array_equal(each.numpy(), second.state()[0][name].numpy())


@pytest.mark.parametrize("count", [0, -1, "2", None, 1.5])
def test_a_state_without_sense_is_refused(count):
    named, average = average_of(0.8, [1])
    tensors = {name: each.numpy() for name, each in average.state()[0].items()}
    with pytest.raises(ValueError, match="average"):
        Average(0.8, named).restore(tensors, {"count": count})
