"""Rows side by side: each alone, in its thread, on its share of the cores."""

import threading

import numpy as np
import paddle
import pytest
from paddle import nn
from support.families import load_family

from dreambooth.config.commands import DrawSettings
from dreambooth.drawing import rows, sampling
from dreambooth.system import machine, threads


class Network(nn.Layer):
    """It notes its calls, and answers with what it is given."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, sample, t, hidden, more=None):
        self.calls.append((threading.get_ident(), sample.shape[0], hidden["words"].shape[0], t.ndim, more[1].shape[0]))
        assert (sample * hidden["words"]).stop_gradient  # no gradient in the threads either
        return sample * hidden["words"] + t, {"more": more[1] * 2}


@pytest.fixture
def chosen(monkeypatch):
    """The numbers of threads that are set."""
    numbers = []
    monkeypatch.setattr(threads, "use", numbers.append)
    return numbers


def inputs(count):
    sample = paddle.to_tensor(np.arange(count * 2, dtype="float32").reshape(count, 2))
    sample.stop_gradient = False
    return sample, paddle.to_tensor(3.0), {"words": sample + 1}


@pytest.mark.parametrize("count, cores, of_each", [(2, 2, 1), (2, 8, 4), (3, 2, 1), (1, 4, 4)])
def test_each_row_goes_alone_and_the_rows_are_joined(chosen, count, cores, of_each, monkeypatch):
    monkeypatch.setattr(threads, "_count", cores)
    network, given = Network(), inputs(count)
    more = ["words", given[0] + 5]
    with paddle.no_grad():
        whole, beside = network(*given, more=more)
        network.calls.clear()
        with rows.in_threads(network, cores):
            joined, also = network(*given, more=more)
    assert np.array_equal(joined.numpy(), whole.numpy()) and np.array_equal(
        also["more"].numpy(), beside["more"].numpy()
    )
    assert [call[1:] for call in network.calls] == [(1, 1, 0, 1)] * count
    assert (threading.get_ident() in {call[0] for call in network.calls}) == (count == 1)
    assert chosen == ([of_each, cores] if count > 1 else [])
    network.calls.clear()
    with paddle.no_grad():
        network(*given, more=more)
    assert len(network.calls) == 1  # as before


def test_on_one_core_or_a_card_nothing_changes(chosen):
    network, given = Network(), inputs(2)
    for cores in (0, 1):
        with paddle.no_grad(), rows.in_threads(network, cores):
            network(*given, more=["", given[0]])
    assert [call[1] for call in network.calls] == [2, 2] and chosen == []


def test_an_error_in_a_row_is_raised_and_the_network_is_as_before(chosen, monkeypatch):
    monkeypatch.setattr(threads, "_count", 2)
    network, given = Network(), inputs(2)
    with pytest.raises(TypeError), rows.in_threads(network, 2):
        network(*given)  # nothing more
    assert "forward" not in vars(network) and chosen == [1, 2]


def test_a_large_networks_picture_has_its_rows_side_by_side(twin, monkeypatch):
    family = load_family(twin)
    monkeypatch.setattr(machine, "_SMALL", 1000)
    settings = DrawSettings(0, "picture", (32, 32), steps=2, scheduler="ddim")
    request = [("a photo of a dog", 0)]
    pictures, calls = [], []
    hook = family.pipeline.unet.conv_in.register_forward_pre_hook(lambda layer, given: calls.append(len(given[0])))
    for cores in (1, 2):
        threads.use(cores)
        monkeypatch.setattr(family, "split", machine.Split(1, cores))
        pictures += [np.asarray(each, int) for each in sampling.draw(family, settings, request)]
    hook.remove()
    threads.use(1)
    assert calls == [2, 2, 1, 1, 1, 1]
    assert abs(pictures[0] - pictures[1]).max() <= 1
