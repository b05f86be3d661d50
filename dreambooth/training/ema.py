"""An average of the weights over the updates, later ones first: it has less of the noise of single batches."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import paddle

from dreambooth.training import weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from paddle import Tensor

    from dreambooth.system.types import Arrays


class Average:
    """The exponential moving average of the weights that train; nothing without a decay.

    After n updates, the weights of update i count decay^(n - i). The weights before the first update do not count, as
    in Adam's correction of its moments (Kingma & Ba 2015, section 3).
    """

    def __init__(self, decay: float | None, named: Mapping[str, Tensor]) -> None:
        self._decay, self._named = decay, named
        self._values: dict[str, Tensor] = {}
        self._count = 0

    @property
    def stateful(self) -> dict[str, Average]:
        """The average by its name in a checkpoint, where there is one."""
        return {} if self._decay is None else {"average": self}

    @paddle.no_grad()
    def add(self) -> None:
        """Count the weights of an update."""
        if self._decay is None:
            return
        self._count += 1
        share = (1 - self._decay) / (1 - self._decay**self._count)
        if not self._values:
            self._values = {name: each.clone() for name, each in self._named.items()}
        else:
            for name, each in self._named.items():
                self._values[name].scale_(1 - share).add_(each * share)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the networks have the average in place of their weights."""
        with weights.exchanged(self._values, self._named):
            yield

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return (tensors, JSON) for a checkpoint."""
        return self._values, {"count": self._count}

    def restore(self, tensors: Arrays, state: Mapping[str, Any]) -> None:
        """Put back what state() returned."""
        if not isinstance(state["count"], int) or state["count"] < 1:
            raise ValueError(f"the state of its average is {state['count']!r}")
        self._count = state["count"]
        self._values = weights.restored(tensors, self._named)
