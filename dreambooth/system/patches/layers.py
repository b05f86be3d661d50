"""How the layers of the libraries compute: every change to that, one function each.

Each names the library and its version, the symptom, the remedy and the test. The tests show that the library alone
still fails, so that a release without the fault shows itself.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dreambooth.system import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from paddle import Tensor

    from dreambooth.system.types import Network

_MANY = 1 << 16  # numbers from which a product pays
_COPIES, _MANY_COPIES = 5 << 18, 1 << 22  # of a convolution: numbers that fit the caches, and those that are split


def recompute_without_random_state() -> None:
    """Let gradient checkpointing compute again without the state of the random generators.

    Call it before PPDiffusers is imported, whose modules each keep the function that they find.
    """
    # Library: Paddle 2.6.2.
    # Symptom: recompute saves the state of the card's generators, and fails on the CPU. Dropout is off, so nothing
    # random is computed again.
    # Remedy: preserve_rng_state=False.
    # Test: test_recompute_works, test_recompute_alone_fails_on_paddle_2.
    from paddle.distributed.fleet import utils

    if not isinstance(utils.recompute, functools.partial):
        utils.recompute = functools.partial(utils.recompute, preserve_rng_state=False)


def flow_through_blocks() -> None:
    """Let the transformer of Stable Diffusion 3 compute on the CPU, and with gradient checkpointing."""
    # Library: PPDiffusers 0.29.0.
    # Symptom: its attention calls a function that the library defines on cards alone. With gradient checkpointing, the
    # blocks' two results are taken for one, and the next block fails.
    # Remedy: Paddle's own function under that name; a loop over the blocks that takes both results.
    # Test: those of the family in test_family_contract.py, test_the_library_alone_fails_on_sd3.
    from paddle.nn import functional
    from ppdiffusers.models.transformer_sd3 import SD3Transformer2DModel

    if not hasattr(functional, "scaled_dot_product_attention_"):
        functional.scaled_dot_product_attention_ = functional.scaled_dot_product_attention
    SD3Transformer2DModel.sd3_origin_transformer = _through_blocks


def _through_blocks(
    self: Network, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor
) -> tuple[Any, Any]:
    from paddle.distributed.fleet import utils

    for block in self.transformer_blocks:
        if self.training and self.gradient_checkpointing:
            both = utils.recompute(block, hidden_states, encoder_hidden_states, temb, use_reentrant=False)
        else:
            both = block(hidden_states, encoder_hidden_states, temb)
        encoder_hidden_states, hidden_states = both
    return encoder_hidden_states, hidden_states


@contextlib.contextmanager
def errors_of_python() -> Iterator[None]:
    """Raise an interruption or a want of memory as what it is; call backward() within it."""
    # Library: Paddle 2.6.2 and 3.3.1.
    # Symptom: what Python raises in a layer's backward pass comes out as OSError: a second Ctrl-C, and MemoryError.
    # Remedy: its name stands in that error's text.
    # Test: test_errors_of_a_backward_pass_are_pythons_own, test_paddle_alone_raises_another_error.
    try:
        yield
    except OSError as error:
        for kind in (KeyboardInterrupt, MemoryError):
            if f"{kind.__name__}:" in str(error):
                raise kind from None
        raise


def add_biases_by_products() -> None:
    """Let layers on the CPU add their biases, and sum the biases' gradients, by products of matrices."""
    # Library: Paddle 2.6.2 and 3.3.1, on the CPU.
    # Symptom: a bias is added by a general broadcast, and its gradient is a general reduction. For 64 channels of
    # 16 x 16 each takes 15 times as long as a product with a vector of ones: a fifth of a training step.
    # Remedy: that product; in a linear layer, one product adds the bias too.
    # Test: test_biases_and_gradients_are_those_of_paddle, test_paddle_alone_is_slow_with_biases.
    import paddle
    from paddle.autograd import PyLayer
    from paddle.nn import functional

    def add(values: Tensor, bias: Tensor, addmm: Callable[..., Tensor]) -> Tensor:
        n, channels, *sides = values.shape
        of_rows, ones = bias.expand([n, channels]).reshape([-1, 1]), paddle.ones([1, math.prod(sides)])
        return addmm(values.reshape([n * channels, math.prod(sides)]), of_rows, ones).reshape(values.shape)

    def add_in_place(values: Tensor, bias: Tensor) -> Tensor:
        # for a few numbers, Python takes longer than it saves
        return values.add_(bias.reshape([1, -1, 1, 1])) if values.size < _MANY else add(values, bias, paddle.addmm_)

    def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = x.reshape([math.prod(x.shape[:-1]), x.shape[-1]])
        return paddle.addmm(bias.reshape([1, -1]), rows, weight).reshape([*x.shape[:-1], weight.shape[-1]])

    class ToChannels(PyLayer):  # type: ignore[misc]
        @staticmethod
        def forward(context: Network, values: Tensor, bias: Tensor) -> Tensor:
            context.learns = [not each.stop_gradient for each in (values, bias)]
            return add(values, bias, paddle.addmm)

        @staticmethod
        def backward(context: Network, gradient: Tensor) -> tuple[Tensor | None, ...]:
            (of_values, of_bias), [n, channels, *sides] = context.learns, gradient.shape
            rows, ones = gradient.reshape([n * channels, math.prod(sides)]), paddle.ones([math.prod(sides), 1])
            sums = paddle.matmul(rows, ones).reshape([n, channels]).sum(0) if of_bias else None
            return gradient if of_values else None, sums

    class ToColumns(PyLayer):  # type: ignore[misc]
        @staticmethod
        def forward(context: Network, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            # gradient checkpointing takes the memory of what is saved, and not where in it a view lies
            x = x if x.is_contiguous() else x.contiguous()
            context.save_for_backward(x, weight)
            context.learns = [not each.stop_gradient for each in (x, weight, bias)]
            return affine(x, weight, bias)

        @staticmethod
        def backward(context: Network, gradient: Tensor) -> tuple[Tensor | None, ...]:
            (x, weight), (of_x, of_weight, of_bias) = context.saved_tensor(), context.learns
            # reshaped here: in the forward pass, the gradient of each reshape would be a copy
            count = math.prod(x.shape[:-1])
            rows, of_rows = x.reshape([count, x.shape[-1]]), gradient.reshape([count, gradient.shape[-1]])
            return (
                paddle.matmul(of_rows, weight, transpose_y=True).reshape(x.shape) if of_x else None,
                paddle.matmul(rows, of_rows, transpose_x=True) if of_weight else None,
                paddle.matmul(paddle.ones([1, len(rows)]), of_rows).reshape([-1]) if of_bias else None,
            )

    def faster(convolve: Callable[..., Tensor], layout_at: int) -> Callable[..., Tensor]:
        def fast(x: Tensor, weight: Tensor, bias: Tensor | None = None, *more: Any, **named: Any) -> Tensor:
            layout = named.get("data_format", more[layout_at] if len(more) > layout_at else "NCHW")
            if layout != "NCHW" or not fits(x, bias):
                return convolve(x, weight, bias, *more, **named)
            values = convolve(x, weight, None, *more, **named)
            return ToChannels.apply(values, bias) if learns(values, bias) else add_in_place(values, bias)

        return fast

    def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, name: str | None = None) -> Tensor:
        if not fits(x, weight, bias):
            return linear(x, weight, bias, name)
        return (ToColumns.apply if learns(x, weight, bias) else affine)(x, weight, bias)

    linear = functional.linear
    if linear.__module__ != __name__:
        functional.linear, functional.conv2d = fast_linear, faster(functional.conv2d, 4)
        functional.conv._conv_nd = faster(functional.conv._conv_nd, 5)  # noqa: SLF001  nn.Conv2D itself calls this


def convolve_in_bands() -> None:
    """Let a large convolution on the CPU go through its picture band by band; call it before add_biases_by_products."""
    # Library: Paddle 2.6.2 and 3.3.1, on the CPU.
    # Symptom: it first copies the picture nine times, once for each place of its kernel, on one core: 1.2 GB for 128
    # channels of 512 x 512. These go to memory and back.
    # Remedy: without a gradient, bands of rows whose copies fit the caches, on all cores.
    # Test: test_bands_are_the_whole, test_paddle_alone_copies_the_whole_picture.
    import paddle
    from paddle.nn import functional

    def in_bands(x: Tensor, weight: Tensor, rows: int) -> Tensor:
        height = x.shape[2]

        def band(first: int) -> Tensor:
            end = min(first + rows, height)
            with paddle.no_grad():
                part = x[:, :, max(first - 1, 0) : end + 1]  # with the neighbours of its first and last row
                return conv2d(part, weight, padding=[int(first == 0), int(end == height), 1, 1])

        return paddle.concat(threads.side_by_side(band, range(0, height, rows)), 2)

    def faster(convolve: Callable[..., Tensor]) -> Callable[..., Tensor]:
        signature = inspect.signature(convolve)

        def fast(x: Tensor, weight: Tensor, bias: Tensor | None = None, *more: Any, **named: Any) -> Tensor:
            of_row = 9 * x.shape[1] * x.shape[-1]
            is_large = x.ndim == 4 and of_row * x.shape[2] > _MANY_COPIES and weight.shape[2:] == [3, 3]
            if is_large and bias is None and fits(x, weight) and not learns(x, weight):
                bound = signature.bind(x, weight, bias, *more, **named)
                bound.apply_defaults()
                names = ("stride", "padding", "dilation", "groups")
                is_nchw = bound.arguments["data_format"] == "NCHW"
                if is_nchw and all({*np.ravel(bound.arguments[name])} == {1} for name in names):
                    return in_bands(x, weight, max(1, _COPIES // of_row))
            return convolve(x, weight, bias, *more, **named)

        return fast

    conv2d = functional.conv2d
    if conv2d.__module__ != __name__:
        functional.conv2d, functional.conv._conv_nd = map(faster, (conv2d, functional.conv._conv_nd))  # noqa: SLF001


def learns(*tensors: Tensor) -> bool:
    """Check whether a gradient goes through one of some tensors."""
    import paddle

    return paddle.is_grad_enabled() and not all(each.stop_gradient for each in tensors)


def fits(*tensors: Tensor | None) -> bool:
    """Check whether all tensors are float32 on the CPU, as the changes of this folder take them."""
    import paddle

    return all(each is not None and each.place.is_cpu_place() and each.dtype == paddle.float32 for each in tensors)
