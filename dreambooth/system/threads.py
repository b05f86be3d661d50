"""The threads of this process: how many compute a matrix product, and work that they do side by side."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

VARIABLE = "OMP_NUM_THREADS"
_count = 1  # Paddle has one unless told otherwise
_here = threading.local()  # whether this thread does a share already


@contextlib.contextmanager
def variable_hidden() -> Iterator[None]:
    """Hide the user's number from Paddle's import, which warns of any but 1."""
    own = os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        if own is not None:
            os.environ[VARIABLE] = own


def use(count: int) -> None:
    """Let Paddle's matrix products run on so many threads."""
    global _count
    from paddle.base import core

    core.set_num_threads(count)
    _count = count


def side_by_side(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Do the work for each item, on threads that the products would use, and return the results in order.

    The items divide the threads. Where there is one thread or one item, and within another item's work, they are done
    one by one: the number of threads, which can change the last bits of a product, must not depend on time.
    """
    count = _count
    if count < 2 or len(items) < 2 or hasattr(_here, "is_share"):
        return [work(item) for item in items]
    use(max(1, count // len(items)))
    try:
        with ThreadPoolExecutor(
            min(count, len(items)), initializer=setattr, initargs=(_here, "is_share", True)
        ) as pool:
            return list(pool.map(work, items))
    finally:
        use(count)
