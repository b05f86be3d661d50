"""Attention by parts of its queries: the library's own numbers, in less memory."""

import numpy as np
import paddle
import pytest
from paddle.nn import functional

from dreambooth.system.patches import attention_parts


def small_attention(**changes):
    from ppdiffusers.models.attention_processor import Attention

    paddle.seed(3)
    return Attention(query_dim=12, heads=2, dim_head=6, **changes)


def both_attentions():
    from ppdiffusers.models.attention_processor import AttnProcessor

    return AttnProcessor.__call__, AttnProcessor.__call__.__wrapped__


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("words", [None, 3, 70])
def test_attention_is_that_of_the_library(monkeypatch, split, words):
    """With and without a gradient, of one thing or two, at once or in parts, of which the last is smaller."""
    monkeypatch.setattr(attention_parts, "MANY_SCORES", 0 if split else 1 << 24)
    monkeypatch.setattr(attention_parts, "_SCORES", 64)
    attention, x = small_attention(cross_attention_dim=12 if words else None), paddle.randn([2, 150, 12])
    context = paddle.randn([2, words, 12]) if words else None
    results = []
    for call in both_attentions():
        with paddle.no_grad():
            drawn = call(None, attention, x, encoder_hidden_states=context).numpy()
        one = x.clone()
        one.stop_gradient = False
        learned = call(None, attention, one, encoder_hidden_states=context)
        (learned * paddle.arange(12, dtype="float32")).sum().backward()
        gradients = [each.grad.numpy() for each in (one, *attention.parameters()) if each.grad is not None]
        attention.clear_gradients()
        results.append([drawn, learned.numpy(), *gradients])
    assert len(results[0]) == len(results[1]) > 6
    for mine, theirs in zip(*results):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("scale, is_in_range", [(1, True), (15, False)])
def test_exponentials_out_of_range_are_those_of_softmax(scale, is_in_range, monkeypatch):
    monkeypatch.setattr(attention_parts, "MANY_SCORES", 0)
    softmax, calls = functional.softmax_, []
    monkeypatch.setattr(functional, "softmax_", lambda scores: calls.append(float(scores.max())) or softmax(scores))
    attention, x = small_attention(), scale * paddle.randn([2, 70, 12])
    with paddle.no_grad():
        mine, theirs = (call(None, attention, x).numpy() for call in both_attentions())
    assert (calls == []) == is_in_range and max(calls, default=89) > 88  # the logarithm of float32's largest number
    np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    "changes, shape",
    [
        (dict(upcast_attention=True), [2, 5, 12]),
        (dict(upcast_softmax=True), [2, 5, 12]),
        (dict(norm_num_groups=3, residual_connection=True, rescale_output_factor=2.0), [2, 12, 2, 3]),
        (dict(norm_num_groups=3), [2, 5, 12]),
        (dict(residual_connection=True), [2, 5, 12]),
        (dict(rescale_output_factor=2.0), [2, 5, 12]),
    ],
)
def test_other_attentions_are_the_librarys(changes, shape):
    attention, x = small_attention(**changes), paddle.randn(shape)
    mine, theirs = (call(None, attention, x).numpy() for call in both_attentions())
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_mask_is_obeyed():
    attention, x = small_attention(), paddle.randn([2, 5, 12])
    mask = paddle.to_tensor([[[0.0, 0.0, 0.0, -1e9, -1e9]]] * 2)
    mine, theirs = (call(None, attention, x, attention_mask=mask).numpy() for call in both_attentions())
    assert np.array_equal(mine, theirs)
    assert not np.allclose(mine, attention(x).numpy(), atol=1e-3)


def test_the_library_alone_scales_the_scores(monkeypatch):
    attention, x = small_attention(), paddle.ones([1, 5, 12])
    largest, multiply = [], paddle.matmul

    def matmul(x, y, **options):
        if options.get("transpose_y"):
            largest.append(float(x.abs().max()))
        return multiply(x, y, **options)

    monkeypatch.setattr(paddle, "matmul", matmul)
    for call in both_attentions():
        call(None, attention, x)
    assert largest[0] == pytest.approx(largest[1] * attention.scale, rel=1e-5)


def long_attention():
    """Query, key and value of two heads, with so many tokens that there are several parts."""
    paddle.seed(5)
    tensors = [paddle.randn([1, 3000, 16]) for _ in range(3)]
    for each in tensors:
        each.stop_gradient = False
    return tensors


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="Paddle 2.6.2 does not count from zero again")
def test_a_backward_pass_keeps_no_scores(monkeypatch):
    from paddle.base import core

    def most_memory(most):
        monkeypatch.setattr(attention_parts, "MANY_SCORES", most)
        tensors = long_attention()
        core.host_memory_stat_reset_peak_value("Allocated", 0)
        before = core.host_memory_stat_current_value("Allocated", 0)
        done = attention_parts._attend(2, *tensors)
        (done * done).sum().backward()
        peak = core.host_memory_stat_peak_value("Allocated", 0) - before
        return peak, [each.grad.numpy() for each in tensors]

    scores = 4 * 2 * 3000**2  # bytes
    (by_parts, mine), (whole, theirs) = most_memory(0), most_memory(1 << 40)
    assert by_parts < 0.4 * scores and whole > 2 * scores
    for one, other in zip(mine, theirs):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_what_does_not_learn_has_no_gradient(monkeypatch):
    """As a LoRA's frozen keys: those of the prompts, whose encoder does not train."""
    monkeypatch.setattr(attention_parts, "MANY_SCORES", 0)
    query, key, value = long_attention()
    key.stop_gradient = True
    attention_parts._attend(2, query, key, value).sum().backward()
    assert key.grad is None and query.grad is not None and value.grad is not None


@pytest.mark.parametrize("scale", [1, 60])
def test_scores_out_of_range_have_the_right_gradients(monkeypatch, scale):
    """Also where the exponentials of the scores leave the range of float32."""
    found = []
    for most in (0, 1 << 40):
        monkeypatch.setattr(attention_parts, "MANY_SCORES", most)
        query, key, value = long_attention()
        done = attention_parts._attend(2, query * scale, key, value)
        (done * done).sum().backward()
        found.append([done.numpy(), *(each.grad.numpy() for each in (query, key, value))])
    for mine, theirs in zip(*found):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=2e-4 * np.abs(theirs).max())


def test_a_result_without_a_backward_pass_is_freed(monkeypatch):
    from paddle.base import core

    monkeypatch.setattr(attention_parts, "MANY_SCORES", 0)
    tensors, after = long_attention(), []
    for _ in range(4):
        attention_parts._attend(2, *tensors)
        after.append(core.host_memory_stat_current_value("Allocated", 0))
    assert after[0] == after[-1]
