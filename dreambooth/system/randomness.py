"""Randomness as a function: every random number of a run is drawn from (seed, purpose, where), never from a state.

`where` is the step and the slot in the global batch, so that a resumed run continues bit for bit and the split into
processes and micro-batches does not change what is drawn. NumPy's SeedSequence turns the key into a stream.
"""

import functools
import zlib

import numpy as np


def stream(seed, purpose, *where):
    """An independent random stream for one purpose at one place."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), len(where), *where])  # its end counts as zeros


def normal(seed, purpose, places, shape):
    """Standard normal numbers [len(places), *shape], each row a function of its own place alone."""
    rows = [stream(seed, purpose, *place).standard_normal(shape, dtype=np.float32) for place in places]
    return np.stack(rows)


def integers(seed, purpose, places, below):
    """One whole number in [0, below) for each place."""
    return np.array([stream(seed, purpose, *place).integers(below) for place in places], dtype=np.int64)


@functools.lru_cache(maxsize=64)
def _permutation(seed, purpose, count, turn):
    return stream(seed, purpose, turn).permutation(count)


def pick(seed, purpose, count, index):
    """Element `index` of the endless sequence that goes through `count` things in a new order at each turn."""
    turn, position = divmod(index, count)
    return int(_permutation(seed, purpose, count, turn)[position])
