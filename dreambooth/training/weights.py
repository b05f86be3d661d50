"""Other values for the weights that train: exchanged with them, and read from a checkpoint."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import paddle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from paddle import Tensor

    from dreambooth.system.types import Arrays


@contextlib.contextmanager
def exchanged(values: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the networks have other values in place of their weights, within the context."""
    _exchange(values, named)
    try:
        yield
    finally:
        _exchange(values, named)


@paddle.no_grad()
def _exchange(values: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> None:
    """Exchange weights and values one by one, in the memory that each has: other processes may share it."""
    for name, value in values.items():
        weights = named[name]
        before = weights.clone()
        paddle.assign(value, weights)
        paddle.assign(before, value)


def restored(tensors: Arrays, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the values of a checkpoint for the weights; one that did not train then has its value of now."""
    return {
        name: paddle.to_tensor(np.asarray(tensors[name]), place=each.place) if name in tensors else each.clone()
        for name, each in named.items()
    }
