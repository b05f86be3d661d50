"""The ways of a convolution through its picture: each gives what the whole gives, and the library alone is slow."""

import inspect
import sys

import numpy as np
import paddle
import pytest
from paddle.nn import functional
from ppdiffusers.models.lora import LoRACompatibleConv

from dreambooth.system import threads
from dreambooth.system.patches import convolutions

PADDLES_OWN = inspect.getclosurevars(inspect.getclosurevars(functional.conv2d).nonlocals["convolve"]).nonlocals[
    "convolve"
]
KINDS = [paddle.nn.Conv2D, LoRACompatibleConv]


@pytest.fixture(autouse=True)
def on_two_threads():
    before = threads._count
    threads.use(2)
    yield
    threads.use(before)


@pytest.fixture
def parts(monkeypatch):
    """Tiles for 3 channels and more where sides are even, else bands; both of two rows of 4 channels, 6 wide.

    Returns (way, number of parts) of each convolution.
    """
    monkeypatch.setattr(convolutions, "_MANY_COPIES", 0)
    monkeypatch.setattr(convolutions, "_COPIES", 2 * 9 * 4 * 6)
    monkeypatch.setattr(convolutions, "_MANY_PRODUCTS", 0)
    monkeypatch.setattr(convolutions, "_CHANNELS", 3)
    monkeypatch.setattr(convolutions, "_TILED", 2 * 4 * 6)
    found, share = [], threads.side_by_side

    def counting(work, items):
        found.append((sys._getframe(1).f_code.co_name, len(items)))
        return share(work, items)

    monkeypatch.setattr(threads, "side_by_side", counting)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    "height, width, out", [(2, 6, 3), (8, 6, 5), (6, 2, 3), (1, 6, 3), (9, 6, 3), (8, 5, 3), (8, 6, 2)]
)
def test_parts_are_the_whole(kind, n, height, width, out, parts):
    paddle.seed(0)
    layer, x = kind(4, out, 3, padding=1), paddle.randn([n, 4, height, width])
    whole = layer(x)
    assert not whole.stop_gradient and parts == []  # a gradient needs the whole
    with paddle.no_grad():
        in_parts = layer(x)
    [(way, count)] = parts
    if height % 2 or width % 2 or out < 3:
        assert way == "_in_bands" and count >= -(-height // 2)
    else:
        assert way == "_by_tiles" and count == n * -(-height // (2 * max(1, 6 // width)))
    assert in_parts.stop_gradient and in_parts.shape == whole.shape
    np.testing.assert_allclose(in_parts.numpy(), whole.numpy(), rtol=1e-5, atol=1e-5)


def test_tiles_are_as_exact():
    """Against double precision, the error is that of other orders of summation, not of another kind."""
    x, weight = paddle.randn([1, 128, 32, 32]), paddle.randn([128, 128, 3, 3])
    exact = PADDLES_OWN(x.astype("float64"), weight.astype("float64"), padding=1)
    with paddle.no_grad():
        assert convolutions._way(x, weight) is convolutions._by_tiles
        mine, theirs = (
            float((convolve(x, weight, padding=1).astype("float64") - exact).square().mean().sqrt() / exact.std())
            for convolve in (functional.conv2d, PADDLES_OWN)
        )
    assert 1e-8 < mine < 3 * theirs and mine < 1e-6


@pytest.mark.parametrize(
    "settings",
    [
        dict(padding=0),
        dict(padding=2),
        dict(padding="SAME"),
        dict(padding=[1, 0]),
        dict(padding=1, stride=2),
        dict(padding=1, stride=[1, 2]),
        dict(padding=1, dilation=2),
        dict(padding=1, groups=2),
        dict(padding=1, data_format="NHWC"),
        dict(padding=1, padding_mode="circular"),
    ],
    ids=str,
)
def test_other_convolutions_go_through_the_whole(settings, parts):
    layer = paddle.nn.Conv2D(4, 4, 3, **settings)
    with paddle.no_grad():
        layer(paddle.randn([1, 4, 4, 4]))
        paddle.nn.Conv2D(4, 4, 1)(paddle.randn([1, 4, 4, 4]))
        paddle.nn.Conv1D(4, 4, 3, padding=1)(paddle.randn([1, 4, 9]))
        paddle.nn.Conv2D(4, 4, 3, padding=1).to(dtype="float64")(paddle.randn([1, 4, 4, 4], "float64"))
    assert parts == []


@pytest.mark.parametrize(
    "shape, out, way",
    [
        ([1, 320, 64, 64], 320, "_by_tiles"),
        ([2, 1280, 16, 16], 1280, "_by_tiles"),
        ([1, 4, 64, 64], 320, None),
        ([1, 128, 512, 512], 3, "_in_bands"),
        ([1, 512, 65, 65], 512, "_in_bands"),
        ([8, 64, 16, 16], 64, None),
        ([0, 320, 64, 64], 320, None),
    ],
)
def test_the_way_depends_on_the_sizes(shape, out, way):
    class Sized:
        def __init__(self, *shape):
            self.shape = shape

    found = convolutions._way(Sized(*shape), Sized(out, shape[1], 3, 3))
    assert (found and found.__name__) == way


def test_a_small_convolution_goes_through_the_whole(monkeypatch):
    monkeypatch.setattr(threads, "side_by_side", lambda *_: pytest.fail("in parts"))
    with paddle.no_grad():
        paddle.nn.Conv2D(4, 4, 3, padding=1)(paddle.randn([1, 4, 64, 64]))


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="Paddle 2.6.2 does not count from zero again")
def test_paddle_alone_copies_the_whole_picture():
    from paddle.base import core

    x, weight = paddle.randn([1, 16, 256, 256]), paddle.randn([16, 16, 3, 3])

    def peak_of(convolve):
        core.host_memory_stat_reset_peak_value("Allocated", 0)
        before = core.host_memory_stat_current_value("Allocated", 0)
        with paddle.no_grad():
            convolve(x, weight, padding=1)
        return (core.host_memory_stat_peak_value("Allocated", 0) - before) / (4 * x.size)

    assert peak_of(PADDLES_OWN) > 9
    assert peak_of(functional.conv2d) < 5  # the result, its bands, and a band's copies
