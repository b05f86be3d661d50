"""Attention on the CPU by parts of its queries, whose scores fit the caches: for drawing, and for training."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from dreambooth.system.patches.layers import fits, learns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from paddle import Tensor

    from dreambooth.system.types import Network

MANY_SCORES = 1 << 24  # from which attention goes by parts
_SCORES = 1 << 20  # of a part: numbers that fit the caches
_LEAST = 1e-30  # sum of exponentials, far from the ends of float32


def attend_in_parts() -> None:
    """Let attention on the CPU scale its queries, and keep no more scores than it uses at once."""
    # Library: PPDiffusers 0.29.0.
    # Symptom: the scale multiplies the scores: 268 million for a picture of 512 x 512 with guidance. These go to memory
    # and back for each of product, scale and softmax, and stay there for the backward pass.
    # Remedy: the queries are scaled. Of many scores, a part of the queries at a time, whose scores fit the caches.
    # Their exponentials are summed by the product with the values, which gets one more column. The backward pass
    # computes them again.
    # Test: test_attention_is_that_of_the_library, test_the_library_alone_scales_the_scores,
    # test_a_backward_pass_keeps_no_scores.
    from ppdiffusers.models.attention_processor import AttnProcessor

    if not hasattr(AttnProcessor.__call__, "__wrapped__"):
        AttnProcessor.__call__ = _faster(AttnProcessor.__call__)


def _faster(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(call)
    def fast(
        self: object, attn: Network, x: Tensor, encoder_hidden_states: Tensor | None = None, **named: Any
    ) -> Tensor:
        odd = (attn.spatial_norm, attn.group_norm, attn.norm_cross, attn.residual_connection, *named.values())
        upcasts = attn.upcast_attention, attn.upcast_softmax
        is_odd = any(each is not None and each is not False for each in (*odd, *upcasts))
        if x.ndim != 3 or is_odd or not fits(x):
            return call(self, attn, x, encoder_hidden_states, **named)
        context = x if encoder_hidden_states is None else encoder_hidden_states
        attended = _attend(attn.heads, attn.to_q(x) * attn.scale, attn.to_k(context), attn.to_v(context))
        return attn.to_out[1](attn.to_out[0](attended)) / attn.rescale_output_factor

    return fast


def _attend(heads: int, *tensors: Tensor) -> Tensor:
    """Attend with query, key and value [n, tokens, heads x width]; the query is scaled."""
    query, key, value = (each.reshape([0, 0, heads, -1]).transpose([0, 2, 1, 3]) for each in tensors)
    if math.prod(query.shape[:3]) * key.shape[2] <= MANY_SCORES:
        done = _whole(query, key, value)
    else:
        of_heads = [each.flatten(0, 1) for each in (query, key, value)]
        by_parts = _in_training().apply if learns(*tensors) else lambda *each: _softmax_in_parts(*each)[0]
        done = by_parts(*of_heads).reshape(query.shape)
    return done.transpose([0, 2, 1, 3]).flatten(2)


def _whole(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    import paddle
    from paddle.nn import functional

    products = paddle.matmul(query, key, transpose_y=True)
    softmax = functional.softmax if learns(products) else functional.softmax_
    return paddle.matmul(softmax(products), value)


def _parts(query: Tensor, key: Tensor) -> Iterator[tuple[int, int, int]]:
    """Yield (head, first query, end) of parts that have as many scores as fit."""
    heads, tokens = query.shape[:2]
    at_once = max(64, _SCORES // key.shape[1])
    for head in range(heads):
        for first in range(0, tokens, at_once):
            yield head, first, min(first + at_once, tokens)


def _softmax_in_parts(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the attended values [heads, tokens, width], and the logarithm of each query's sum of exponentials.

    None where that sum leaves the range of float32.
    """
    import paddle
    from paddle.nn import functional

    def in_parts(value: Tensor, weigh: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the sums of the values for each query of each head, by the weights that its scores become."""
        parts = [
            paddle.matmul(weigh(paddle.matmul(query[head, first:end], key[head], transpose_y=True)), value[head])
            for head, first, end in _parts(query, key)
        ]
        return paddle.concat(parts).reshape([*query.shape[:2], -1])

    sums = in_parts(paddle.concat([value, paddle.ones_like(value[..., :1])], -1), paddle.Tensor.exp_)
    done, weights = sums[..., :-1], sums[..., -1:]
    # softmax subtracts the largest score before; that is needed where an exponential leaves the range of float32
    if float(weights.min()) > _LEAST and float(weights.max()) < 1 / _LEAST:
        return done / weights, weights.log()
    return in_parts(value, functional.softmax_), None


def _logarithms(query: Tensor, key: Tensor) -> Tensor:
    """Compute the logarithm of each query's sum of exponentials, [heads, tokens, 1], in any range."""
    import paddle

    parts = [
        paddle.logsumexp(paddle.matmul(query[head, first:end], key[head], transpose_y=True), axis=-1)
        for head, first, end in _parts(query, key)
    ]
    return paddle.concat(parts).reshape([*query.shape[:2], 1])


@functools.cache
def _in_training() -> Any:  # noqa: ANN401  a class of Paddle's
    """Return the layer whose backward pass computes the scores again, part by part."""
    import paddle
    from paddle.autograd import PyLayer

    class Attention(PyLayer):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ANN401
            done, logarithms = _softmax_in_parts(query, key, value)
            if logarithms is None:
                logarithms = _logarithms(query, key)
            # detached: the result itself would hold the graph, and the graph it
            ctx.save_for_backward(query, key, value, done.detach(), logarithms)
            ctx.learns = [not each.stop_gradient for each in (query, key, value)]
            return done

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
            query, key, value, done, logarithms = ctx.saved_tensor()
            of_query: list[Tensor] = []  # of each part
            of_key, of_value = ([paddle.zeros_like(head) for head in each.unbind()] for each in (key, value))
            # with one more column, a product subtracts a number of each row: softmax is exp(scores - logarithms), and
            # its gradient is softmax * (gradient of softmax - the gradient's product with the result)
            scored = paddle.concat([query, -logarithms], -1)
            of_done = paddle.concat([gradient, -(gradient * done).sum(-1, keepdim=True)], -1)
            keys, values = (paddle.concat([each, paddle.ones_like(each[..., :1])], -1) for each in (key, value))
            for head, first, end in _parts(query, key):
                weights = paddle.matmul(scored[head, first:end], keys[head], transpose_y=True).exp_()
                of_value[head].add_(paddle.matmul(weights, gradient[head, first:end], transpose_x=True))
                of_scores = paddle.matmul(of_done[head, first:end], values[head], transpose_y=True).multiply_(weights)
                of_query.append(paddle.matmul(of_scores, key[head]))
                of_key[head].add_(paddle.matmul(of_scores, query[head, first:end], transpose_x=True))
            found = (paddle.concat(of_query).reshape(query.shape), paddle.stack(of_key), paddle.stack(of_value))
            return tuple(each if is_needed else None for each, is_needed in zip(found, ctx.learns))

    return Attention
