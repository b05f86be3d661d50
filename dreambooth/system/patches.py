"""Every change to a library, one function each.

Each names the library and its version, the symptom, the remedy and the test. The tests show that the library alone
still fails, so that a release without the fault shows itself.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import pickle
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from paddle import Tensor

    from dreambooth.system.types import Network

# weights that a network has and no pipeline here uses; their files may lack them
_UNUSED_WEIGHTS = (
    *("pooler.", "bert.pooler."),
    *(f"{part}embeddings.position_ids" for part in ("", "text_model.", "vision_model.")),
)

_MANY = 1 << 16  # numbers from which a product pays
_SCORES, _MANY_SCORES = 1 << 20, 1 << 24  # of an attention: those that fit the caches, and those that are split


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
        return addmm(values.reshape([n * channels, -1]), of_rows, ones).reshape(values.shape)

    def add_in_place(values: Tensor, bias: Tensor) -> Tensor:
        # for a few numbers, Python takes longer than it saves
        return values.add_(bias.reshape([1, -1, 1, 1])) if values.size < _MANY else add(values, bias, paddle.addmm_)

    def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values = paddle.addmm(bias.reshape([1, -1]), x.reshape([-1, x.shape[-1]]), weight)
        return values.reshape([*x.shape[:-1], -1])

    class ToChannels(PyLayer):  # type: ignore[misc]
        @staticmethod
        def forward(context: Network, values: Tensor, bias: Tensor) -> Tensor:
            context.learns = [not each.stop_gradient for each in (values, bias)]
            return add(values, bias, paddle.addmm)

        @staticmethod
        def backward(context: Network, gradient: Tensor) -> tuple[Tensor | None, ...]:
            (of_values, of_bias), [n, channels, *sides] = context.learns, gradient.shape
            rows, ones = gradient.reshape([n * channels, -1]), paddle.ones([math.prod(sides), 1])
            sums = paddle.matmul(rows, ones).reshape([n, channels]).sum(0) if of_bias else None
            return gradient if of_values else None, sums

    class ToColumns(PyLayer):  # type: ignore[misc]
        @staticmethod
        def forward(context: Network, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            context.save_for_backward(x, weight)
            context.learns = [not each.stop_gradient for each in (x, weight, bias)]
            return affine(x, weight, bias)

        @staticmethod
        def backward(context: Network, gradient: Tensor) -> tuple[Tensor | None, ...]:
            (x, weight), (of_x, of_weight, of_bias) = context.saved_tensor(), context.learns
            # reshaped here: in the forward pass, the gradient of each reshape would be a copy
            rows, of_rows = x.reshape([-1, x.shape[-1]]), gradient.reshape([-1, gradient.shape[-1]])
            return (
                paddle.matmul(of_rows, weight, transpose_y=True).reshape(x.shape) if of_x else None,
                paddle.matmul(rows, of_rows, transpose_x=True) if of_weight else None,
                paddle.matmul(paddle.ones([1, len(rows)]), of_rows).reshape([-1]) if of_bias else None,
            )

    def fits(*tensors: Tensor | None) -> bool:
        return all(each is not None and each.place.is_cpu_place() and each.dtype == paddle.float32 for each in tensors)

    def faster(convolve: Callable[..., Tensor], layout_at: int) -> Callable[..., Tensor]:
        def fast(x: Tensor, weight: Tensor, bias: Tensor | None = None, *more: Any, **named: Any) -> Tensor:
            layout = named.get("data_format", more[layout_at] if len(more) > layout_at else "NCHW")
            if layout != "NCHW" or not fits(x, bias):
                return convolve(x, weight, bias, *more, **named)
            values = convolve(x, weight, None, *more, **named)
            return ToChannels.apply(values, bias) if _learns(values, bias) else add_in_place(values, bias)

        return fast

    def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, name: str | None = None) -> Tensor:
        if not fits(x, weight, bias):
            return linear(x, weight, bias, name)
        return (ToColumns.apply if _learns(x, weight, bias) else affine)(x, weight, bias)

    linear = functional.linear
    if linear.__module__ != __name__:
        functional.linear, functional.conv2d = fast_linear, faster(functional.conv2d, 4)
        functional.conv._conv_nd = faster(functional.conv._conv_nd, 5)  # noqa: SLF001  nn.Conv2D itself calls this


def attend_in_parts() -> None:
    """Let attention scale its queries, and keep no more scores than it uses at once."""
    # Library: PPDiffusers 0.29.0.
    # Symptom: the scale multiplies the scores: 268 million for a picture of 512 x 512 with guidance. These go to memory
    # and back for each of product, scale and softmax.
    # Remedy: the queries are scaled. Without a gradient, a part of the queries at a time, whose scores fit the caches.
    # Test: test_attention_is_that_of_the_library, test_the_library_alone_scales_the_scores.
    import paddle
    from paddle.nn import functional
    from ppdiffusers.models.attention_processor import AttnProcessor

    def part(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        products = paddle.matmul(query, key, transpose_y=True)
        softmax = functional.softmax if _learns(products) else functional.softmax_
        return paddle.matmul(softmax(products), value)

    def attend(heads: int, *tensors: Tensor) -> Tensor:  # query, key and value: [n, tokens, heads x width]
        query, key, value = (each.reshape([0, 0, heads, -1]).transpose([0, 2, 1, 3]) for each in tensors)
        if _learns(*tensors) or math.prod(query.shape[:3]) * key.shape[2] <= _MANY_SCORES:
            return part(query, key, value).transpose([0, 2, 1, 3]).flatten(2)
        at_once = max(64, _SCORES // key.shape[2])
        done = [
            part(of_queries[first : first + at_once], of_keys, of_values)
            for of_queries, of_keys, of_values in zip(*(each.flatten(0, 1).unbind() for each in (query, key, value)))
            for first in range(0, len(of_queries), at_once)
        ]
        return paddle.concat(done).reshape(query.shape).transpose([0, 2, 1, 3]).flatten(2)

    def faster(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(call)
        def fast(
            self: object, attn: Network, x: Tensor, encoder_hidden_states: Tensor | None = None, **named: Any
        ) -> Tensor:
            odd = (attn.spatial_norm, attn.group_norm, attn.norm_cross, attn.residual_connection, *named.values())
            upcasts = attn.upcast_attention, attn.upcast_softmax
            if x.ndim != 3 or any(each is not None and each is not False for each in (*odd, *upcasts)):
                return call(self, attn, x, encoder_hidden_states, **named)
            context = x if encoder_hidden_states is None else encoder_hidden_states
            attended = attend(attn.heads, attn.to_q(x) * attn.scale, attn.to_k(context), attn.to_v(context))
            return attn.to_out[1](attn.to_out[0](attended)) / attn.rescale_output_factor

        return fast

    if not hasattr(AttnProcessor.__call__, "__wrapped__"):
        AttnProcessor.__call__ = faster(AttnProcessor.__call__)


@dataclass(frozen=True)
class Readers:
    """The readers of weights that the libraries get in place of their own."""

    safetensors: Callable[..., Any]  # (path, framework=…, device=…), with the methods of safetensors.safe_open
    pickle: Callable[[Any], Any]  # (a path, or an open file) -> the content of a .pdparams, a .bin or a .pt


def read_weights_only(readers: Readers) -> None:
    """Give the libraries readers that can return nothing but weights."""
    # Library: Paddle 2.6.2 and 3.3.1, PPDiffusers 0.29.0, PaddleNLP 2.8.1.
    # Symptom: a .pdparams, .bin or .pt that calls os.system runs it, where torch is installed by torch.load.
    # PPDiffusers ignores strides, so a tensor in channels_last is permuted; and it keeps all of a safetensors file in
    # memory. PaddleNLP fails at a single number in one, such as the logarithm of CLIP's scale.
    # Remedy: other readers, under each of the names that the libraries' modules have for them.
    # Test: those of pickles, strides and single numbers in tests/system/test_patches.py.
    from paddle.framework import io as paddle_io
    from paddle.framework import io_utils
    from paddlenlp import utils as paddlenlp_utils
    from paddlenlp.transformers import conversion_utils, model_utils
    from paddlenlp.utils import serialization
    from ppdiffusers import utils as ppdiffusers_utils
    from ppdiffusers.models import modeling_utils
    from ppdiffusers.utils import load_utils

    restricted = types.ModuleType("pickle")
    vars(restricted).update(vars(pickle))
    vars(restricted).update(
        load=lambda file, **options: readers.pickle(file),
        loads=lambda data, **options: readers.pickle(io.BytesIO(data)),
        Unpickler=None,
    )
    for module in (paddle_io, io_utils):
        module.pickle = restricted

    def load_torch(path: str, **options: object) -> object:
        return dict(readers.safetensors(path)) if str(path).endswith(".safetensors") else readers.pickle(path)

    for module in (load_utils, ppdiffusers_utils):
        module.torch_load = load_torch
    for module in (serialization, paddlenlp_utils, conversion_utils):
        module.load_torch = load_torch
    load_utils.safetensors_load = ppdiffusers_utils.safetensors_load = load_torch
    for module in (modeling_utils, model_utils, load_utils):
        module.safe_open = readers.safetensors


@contextlib.contextmanager
def streamed_writing(networks: Iterable[Network], write: Callable[..., None], *arguments: object) -> Iterator[None]:
    """Within it, write(network, *arguments, …) is the save_pretrained of networks."""
    # Library: PPDiffusers 0.29.0, PaddleNLP 2.8.1.
    # Symptom: save_pretrained copies all weights of a network before it writes the first of them. At the end of a run,
    # the optimizer's state is still in memory beside them.
    # Remedy: a function that writes one tensor after the other.
    # Test: test_a_network_is_written_by_the_function_that_is_given, test_the_libraries_alone_copy_a_network_to_save_it.
    changed = list(networks)
    for network in changed:
        network.save_pretrained = functools.partial(write, network, *arguments)
    try:
        yield
    finally:
        for network in changed:
            del network.save_pretrained


@contextlib.contextmanager
def all_weights_found() -> Iterator[None]:
    """Raise ValueError where a network that is loaded within it keeps random weights, since its files lack them."""
    # Library: PPDiffusers 0.29.0, PaddleNLP 2.8.1.
    # Symptom: a network whose files lack weights, or name them otherwise, loads with a warning and draws noise.
    # Remedy: listen to the warnings.
    # Test: test_missing_weights_are_an_error, test_the_libraries_alone_only_warn_of_missing_weights.
    from paddlenlp.transformers import model_utils as paddlenlp
    from ppdiffusers.models import modeling_utils as ppdiffusers

    warnings: list[str] = []

    def listening(warning: Callable[..., None]) -> Callable[..., None]:
        def warn(message: object, *more: object) -> None:
            warnings.append(str(message))
            warning(message, *more)

        return warn

    before = [(module.logger, module.logger.warning) for module in (paddlenlp, ppdiffusers)]
    for logger, warning in before:
        logger.warning = listening(warning)
    try:
        yield
    finally:
        for logger, warning in before:
            logger.warning = warning
    for message in warnings:
        if "newly initialized" not in message:
            continue
        names = [name for name in re.findall(r"'([\w.]+)'", message) if not name.startswith(_UNUSED_WEIGHTS)]
        if names or "did not match" in message:
            part = re.search(r"Some weights of (\w+)", message)
            raise ValueError(
                f"the files of its {part[1] if part else 'networks'} lack {len(names)} weights,"
                f" {names[0] if names else ''} among them"
            )


def keep_padding(text_encoder: Network) -> None:
    """Let the padding token have its learned embedding, as in torch."""
    # Library: Paddle 2.6.2 and 3.3.1.
    # Symptom: Embedding(padding_idx=0) gives zeros for that token, where torch gives the stored row. With the [PAD] of
    # a Chinese text encoder, the prompt's encoding is off by 2.6.
    # Remedy: no padding token, in the layer and in the settings that are saved.
    # Test: test_the_padding_token_has_its_own_embedding, test_paddle_alone_gives_zeros_for_it.
    from paddle import nn

    for layer in text_encoder.sublayers():
        if isinstance(layer, nn.Embedding) and layer._padding_idx is not None:  # noqa: SLF001
            layer._padding_idx = text_encoder.config.pad_token_id = None  # noqa: SLF001


def _learns(*tensors: Tensor) -> bool:
    import paddle

    return paddle.is_grad_enabled() and not all(each.stop_gradient for each in tensors)
