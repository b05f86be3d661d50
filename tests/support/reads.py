"""Counts how often the host reads a tensor: on a card, it waits each time for all that is computed there."""

import contextlib

import paddle
import pytest

READS = ("numpy", "item", "tolist", "__array__", "__float__", "__int__", "__bool__", "__index__")


@contextlib.contextmanager
def counted():
    """List the reads of tensors within the block; one that makes others counts once.

    Whole numbers do not count: PPDiffusers reads those of shapes, which Paddle computes on the host.
    """
    found, within = [], []

    def counting(name, read):
        def counted_read(*arguments, **named):
            if within or arguments[0].dtype in (paddle.int32, paddle.int64):
                return read(*arguments, **named)
            found.append(name)
            within.append(name)
            try:
                return read(*arguments, **named)
            finally:
                within.pop()

        return counted_read

    with pytest.MonkeyPatch.context() as patch:
        for name in READS:
            patch.setattr(paddle.Tensor, name, counting(name, getattr(paddle.Tensor, name)))
        yield found
