"""The changes to how the libraries' layers compute: each does its work, and the library alone still needs it."""

import contextlib
import inspect
import time

import numpy as np
import paddle
import pytest
from paddle.autograd import PyLayer
from paddle.nn import functional
from ppdiffusers.models.lora import LoRACompatibleConv
from support.commands import new_python

from dreambooth.system import threads
from dreambooth.system.patches import layers

OUR_FUNCTIONS = functional.linear, functional.conv2d, functional.conv._conv_nd
ALONE_FUNCTIONS = tuple(
    inspect.getclosurevars(each).nonlocals[name]
    for each, name in zip(OUR_FUNCTIONS, ("linear", "convolve", "convolve"))
)
PADDLES_CONVOLUTION = inspect.getclosurevars(ALONE_FUNCTIONS[1]).nonlocals["convolve"]


def set_functions(functions):
    functional.linear, functional.conv2d, functional.conv._conv_nd = functions


def layers_and_inputs():
    """Each layer with a bias, of every kind that networks have, and an input."""
    paddle.seed(0)
    yield "linear", paddle.nn.Linear(6, 5), paddle.randn([2, 3, 6])
    yield "linear, one row", paddle.nn.Linear(6, 5), paddle.randn([6])
    yield "linear without bias", paddle.nn.Linear(6, 5, bias_attr=False), paddle.randn([2, 6])
    yield "convolution", paddle.nn.Conv2D(3, 4, 3, padding=1), paddle.randn([2, 3, 5, 4])
    yield "convolution of PPDiffusers", LoRACompatibleConv(3, 4, 3, padding=1), paddle.randn([2, 3, 5, 4])
    yield "strides", paddle.nn.Conv2D(3, 4, 3, stride=2), paddle.randn([2, 3, 9, 8])
    yield "groups", paddle.nn.Conv2D(4, 4, 3, groups=4), paddle.randn([2, 4, 5, 4])
    yield "channels last", paddle.nn.Conv2D(3, 4, 1, data_format="NHWC"), paddle.randn([2, 5, 4, 3])
    yield "one dimension", paddle.nn.Conv1D(3, 4, 3), paddle.randn([2, 3, 9])
    yield "double precision", paddle.nn.Linear(6, 5).to(dtype="float64"), paddle.randn([2, 6], "float64")


BIASES = [name for name, *_ in layers_and_inputs()]


@pytest.mark.parametrize(
    "frozen",
    [(), ("bias",), ("weight",), ("input",), ("weight", "bias"), ("weight", "input"), ("weight", "bias", "input")],
)
@pytest.mark.parametrize("name", BIASES)
def test_biases_and_gradients_are_those_of_paddle(name, frozen):
    [(layer, x)] = [(layer, x) for kind, layer, x in layers_and_inputs() if kind == name]
    tensors = {"input": x, "weight": layer.weight, **({} if layer.bias is None else {"bias": layer.bias})}
    for part, tensor in tensors.items():
        tensor.stop_gradient = part in frozen
    gradient = None
    found = []
    for functions in (ALONE_FUNCTIONS, OUR_FUNCTIONS):
        set_functions(functions)
        values = layer(x)
        gradient = paddle.randn(values.shape, values.dtype) if gradient is None else gradient
        if not values.stop_gradient:
            values.backward(gradient)
        grads = {part: None if tensor.grad is None else tensor.grad.numpy() for part, tensor in tensors.items()}
        with paddle.no_grad():
            found.append((values.numpy(), layer(x).numpy(), grads))
        for tensor in tensors.values():
            tensor.clear_gradient(set_to_zero=False)
    (values, plain, grads), (our_values, our_plain, our_grads) = found
    np.testing.assert_allclose(our_values, values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(our_plain, plain, rtol=1e-5, atol=1e-6)
    assert {part for part, each in grads.items() if each is None} == {
        part for part, each in our_grads.items() if each is None
    }
    for part, each in grads.items():
        if each is not None:
            np.testing.assert_allclose(our_grads[part], each, rtol=1e-4, atol=1e-5)


def test_biases_are_exact_through_gradient_checkpointing():
    from paddle.distributed.fleet.utils import recompute

    layers = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.Flatten(), paddle.nn.Linear(36, 2))
    x = paddle.randn([2, 3, 5, 5])
    x.stop_gradient = False
    gradients = []
    for run in (layers, lambda rows: recompute(layers, rows)):
        run(x).square().sum().backward()
        gradients.append([each.grad.numpy() for each in (x, *layers.parameters())])
        for each in (x, *layers.parameters()):
            each.clear_gradient(set_to_zero=False)
    assert all(np.array_equal(one, other) for one, other in zip(*gradients))


def test_paddle_alone_is_slow_with_biases():
    """A convolution of Stable Diffusion's kind spends as long on its bias as on a third of itself."""
    layer, x = paddle.nn.Conv2D(64, 64, 1), paddle.randn([8, 64, 16, 16])

    def seconds(functions):
        set_functions(functions)
        taken = []
        for _ in range(15):
            start = time.perf_counter()
            layer(x).sum().backward()
            taken.append(time.perf_counter() - start)
        return min(taken)

    assert seconds(OUR_FUNCTIONS) < 0.9 * seconds(ALONE_FUNCTIONS)
    set_functions(OUR_FUNCTIONS)


class Failing(PyLayer):
    """A layer whose backward pass raises an error."""

    @staticmethod
    def forward(context, x, error):
        context.error = error
        return x * 1

    @staticmethod
    def backward(context, gradient):
        raise context.error


def failing(error):
    x = paddle.ones([1])
    x.stop_gradient = False
    return Failing.apply(x, error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), MemoryError("no room")], ids=repr)
def test_errors_of_a_backward_pass_are_pythons_own(error):
    with pytest.raises(type(error)), layers.errors_of_python():
        failing(error).backward()


def test_other_errors_stay_as_they_are():
    for error in (OSError("a disk"), FileNotFoundError("a file"), KeyError("MemoryError")):
        with pytest.raises(type(error)) as raised, layers.errors_of_python():
            raise error
        assert raised.value is error
    with pytest.raises(OSError, match="ValueError: odd"), layers.errors_of_python():
        failing(ValueError("odd")).backward()


def test_paddle_alone_raises_another_error():
    with pytest.raises(OSError):
        failing(KeyboardInterrupt()).backward()


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="Paddle 2.6.2 refuses tensors without rows")
@pytest.mark.parametrize("functions", [OUR_FUNCTIONS, ALONE_FUNCTIONS], ids=["ours", "paddle's"])
@pytest.mark.parametrize("learns", [True, False])
def test_no_rows_stay_no_rows(functions, learns):
    linear, convolution = paddle.nn.Linear(5, 4), paddle.nn.Conv2D(3, 4, 3, padding=1)
    x, pictures = paddle.ones([2, 0, 5]), paddle.ones([0, 3, 6, 7])
    set_functions(functions)
    try:
        with contextlib.nullcontext() if learns else paddle.no_grad():
            assert linear(x).shape == [2, 0, 4] and convolution(pictures).shape == [0, 4, 6, 7]
    finally:
        set_functions(OUR_FUNCTIONS)


@pytest.fixture
def on_two_threads():
    before = threads._count
    threads.use(2)
    yield
    threads.use(before)


@pytest.fixture
def bands(monkeypatch, on_two_threads):
    """Bands of two rows of 4 channels, 5 wide; the number of bands of each convolution."""
    monkeypatch.setattr(layers, "_MANY_COPIES", 0)
    monkeypatch.setattr(layers, "_COPIES", 2 * 9 * 4 * 5)
    counts, share = [], threads.side_by_side

    def counting(work, items):
        counts.append(len(items))
        return share(work, items)

    monkeypatch.setattr(threads, "side_by_side", counting)
    return counts


@pytest.mark.parametrize("kind", [paddle.nn.Conv2D, LoRACompatibleConv])
@pytest.mark.parametrize("height", [1, 2, 3, 8, 9])
def test_bands_are_the_whole(kind, height, bands):
    paddle.seed(0)
    layer, x = kind(4, 3, 3, padding=1), paddle.randn([2, 4, height, 5])
    whole = layer(x)
    assert not whole.stop_gradient and bands == []  # a gradient needs the whole
    with paddle.no_grad():
        in_bands = layer(x)
    assert bands == [-(-height // 2)] and in_bands.stop_gradient
    np.testing.assert_allclose(in_bands.numpy(), whole.numpy(), rtol=1e-5, atol=1e-6)


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
def test_other_convolutions_go_through_the_whole(settings, bands):
    layer = paddle.nn.Conv2D(4, 4, 3, **settings)
    with paddle.no_grad():
        layer(paddle.randn([1, 4, 4, 4]))
    with paddle.no_grad():
        paddle.nn.Conv2D(4, 4, 1)(paddle.randn([1, 4, 4, 4]))
        paddle.nn.Conv1D(4, 4, 3, padding=1)(paddle.randn([1, 4, 9]))
    assert bands == []


def test_a_small_convolution_goes_through_the_whole(monkeypatch):
    monkeypatch.setattr(threads, "side_by_side", lambda *_: pytest.fail("in bands"))
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

    assert peak_of(PADDLES_CONVOLUTION) > 9
    assert peak_of(functional.conv2d) < 5  # the result, its bands, and a band's copies


def test_recompute_works():
    from paddle.distributed.fleet import utils

    layer = paddle.nn.Linear(2, 2)
    utils.recompute(layer, paddle.ones([1, 2]), use_reentrant=False).sum().backward()
    assert layer.weight.grad is not None


def test_recompute_has_the_gradient_of_a_part_of_a_tensor():
    """A view lies somewhere in the memory of another tensor; Paddle's recompute takes what lies at its beginning."""
    from paddle.distributed.fleet import utils

    layers.add_biases_by_products()
    layer = paddle.nn.Linear(64, 64)
    whole = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 8, 64)).astype("float32"))

    def second_half(values):
        return layer((values * 1)[:, 4:])

    gradients = []
    for run in (second_half, lambda values: utils.recompute(second_half, values, use_reentrant=False)):
        values = whole.clone()
        values.stop_gradient = False
        run(values).square().sum().backward()
        gradients.append(layer.weight.grad.numpy())
        layer.clear_gradients()
    assert np.array_equal(*gradients) and np.abs(gradients[0]).max() > 1


SD3 = """
import paddle
from ppdiffusers import SD3Transformer2DModel
from paddle.distributed.fleet import utils
paddle.seed(0)
settings = dict(num_layers=2, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16, patch_size=2)
settings |= dict(caption_projection_dim=16, pooled_projection_dim=16, sample_size=8, pos_embed_max_size=8)
network = SD3Transformer2DModel(**settings)
network.enable_gradient_checkpointing()
inputs = paddle.randn([1, 16, 8, 8]), paddle.randn([1, 4, 16]), paddle.randn([1, 16]), paddle.to_tensor([5.0])
for call in ("eval", "train"):
    getattr(network, call)()
    try:
        network(*inputs, return_dict=False)[0].sum().backward()
        print("computes")
    except (AttributeError, TypeError) as error:
        print(type(error).__name__)
    if not hasattr(paddle.nn.functional, "scaled_dot_product_attention_"):
        paddle.nn.functional.scaled_dot_product_attention_ = paddle.nn.functional.scaled_dot_product_attention
"""


def test_the_library_alone_fails_on_sd3():
    done = new_python("-c", SD3)
    assert done.stdout.split() == ["AttributeError", "AttributeError"], done.stdout + done.stderr


def test_recompute_alone_fails_on_paddle_2():
    from paddle.distributed.fleet import utils

    layer = paddle.nn.Linear(2, 2)
    outcome = pytest.raises(Exception) if paddle.__version__.startswith("2.") else contextlib.nullcontext()
    with outcome:
        utils.recompute.func(layer, paddle.ones([1, 2]), use_reentrant=False).sum().backward()
