"""Randomness as a function: every random number of a run is drawn from (seed, purpose, key), never from a state.

A key names the number's use, such as (update, slot, kind) of an example. So a resumed run continues bit for bit,
and the split into processes and micro-batches does not change a number. NumPy's SeedSequence makes the streams.
"""

from __future__ import annotations

import functools
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dreambooth.system.types import Key


def stream(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Make the independent random stream of one purpose and one key."""
    # the length, since SeedSequence takes a key and the same key with zeros at its end for one
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), len(key), *key])


def normal(seed: int, purpose: str, keys: Sequence[Key], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw standard normal numbers [len(keys), *shape], each row from its own key alone."""
    rows = [stream(seed, purpose, *key).standard_normal(shape, dtype=np.float32) for key in keys]
    return np.stack(rows)


def integers(seed: int, purpose: str, keys: Sequence[Key], below: int) -> NDArray[np.int64]:
    """Draw one whole number in [0, below) for each key."""
    return np.array([stream(seed, purpose, *key).integers(below) for key in keys], dtype=np.int64)


def uniform(seed: int, purpose: str, key: Key) -> float:
    """Draw a number in [0, 1) for a key."""
    return float(stream(seed, purpose, *key).random())


@functools.lru_cache(maxsize=64)
def _permutation(seed: int, purpose: str, count: int, turn: int) -> NDArray[Any]:
    return stream(seed, purpose, turn).permutation(count)


def pick(seed: int, purpose: str, count: int, index: int) -> int:
    """Return element `index` of the endless sequence that goes through range(count) in a new order at each turn."""
    turn, position = divmod(index, count)
    return int(_permutation(seed, purpose, count, turn)[position])
