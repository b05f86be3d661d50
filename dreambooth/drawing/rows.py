"""The rows of a large network's batch, side by side on the CPU.

A large network computes matrix products on all cores, and all else on one: softmax, norms, copies. Where no gradient is
needed, each row goes through the network in a thread, so that all of it is on all cores. A row has the same bits in any
batch then.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from dreambooth.system import threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from paddle import Tensor

    from dreambooth.system.types import Network


@contextlib.contextmanager
def in_threads(network: Network, cores: int) -> Iterator[None]:
    """Within it, the network goes through the rows of its inputs side by side, where there are several cores."""
    if cores < 2:
        yield
        return
    import paddle

    forward = network.forward

    def go_through(sample: Tensor, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401  what the network returns
        rows = len(sample)

        @paddle.no_grad()
        def go_through_row(number: int) -> Any:  # noqa: ANN401
            own, more = _row((sample, *arguments), number, rows), _row(options, number, rows)
            return forward(*own, **more)

        return _joined(threads.side_by_side(go_through_row, range(rows)))

    network.forward = go_through
    try:
        yield
    finally:
        del network.forward


def _row(value: Any, number: int, rows: int) -> Any:  # noqa: ANN401  an argument of a network
    """Take a row of all tensors in an argument that have one for each row of the batch."""
    import paddle

    if isinstance(value, paddle.Tensor):
        return value[number : number + 1] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, (list, tuple)):
        return type(value)(_row(each, number, rows) for each in value)
    if isinstance(value, dict):
        return {name: _row(each, number, rows) for name, each in value.items()}
    return value


def _joined(results: Sequence[Any]) -> Any:  # noqa: ANN401  what the network returns
    import paddle

    first = results[0]
    if isinstance(first, paddle.Tensor):
        return paddle.concat(list(results))
    if isinstance(first, dict):  # the library's outputs are
        return type(first)(**{name: _joined([each[name] for each in results]) for name in first})
    return type(first)(_joined(each) for each in zip(*results))
