"""The best weights of a run by the score of its validations, and the end of a run that no longer gets better."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import paddle

from dreambooth.system import console
from dreambooth.training import weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from paddle import Tensor

    from dreambooth.files.records import Choice
    from dreambooth.system.types import Arrays

_SCORE = "score"


class Entry(NamedTuple):
    """A validation."""

    step: int
    figures: dict[str, float]  # the score among them


class Best:
    """The validations so far, and the weights of the one with the best score, where they are to be kept.

    After `patience` validations without a better score, the run is over; a score of 0 is no beginning to count from.
    """

    def __init__(
        self, is_kept: bool, patience: int | None, named: Mapping[str, Tensor], measures: str | None = ""
    ) -> None:
        self._is_kept, self._patience, self._named = is_kept, patience, named
        self._measures = measures  # in words, as scores of others can't be compared; None: nothing is measured
        self._values: dict[str, Tensor] = {}
        self.history: list[Entry] = []

    @property
    def stateful(self) -> dict[str, Best]:
        """It, by its name in a checkpoint, where something is measured."""
        return {} if self._measures is None else {"best": self}

    @paddle.no_grad()
    def add(self, step: int, figures: dict[str, float]) -> None:
        """Count a validation, whose weights are those in the networks."""
        if not figures or not self.lacks(step):
            return
        before = self.best
        self.history.append(Entry(step, figures))
        if self._is_kept and self.best is not before:
            self._values = {name: each.clone() for name, each in self._named.items()}

    def lacks(self, step: int) -> bool:
        """Check whether there was no validation at a step."""
        return not any(entry.step == step for entry in self.history)

    @property
    def best(self) -> Entry | None:
        """The first of the validations with the best score; before the first update there is nothing to save."""
        scored = [entry for entry in self.history if entry.step and math.isfinite(entry.figures[_SCORE])]
        return max(scored, key=lambda entry: entry.figures[_SCORE], default=None)

    @property
    def record(self) -> Choice:
        """What a run's record has of it: the validations, and the step whose weights are saved."""
        if not self.history:
            return {}
        numbers = [{name: _or_none(each) for name, each in entry.figures.items()} for entry in self.history]
        found: Choice = {"validations": [{"step": entry.step, **each} for entry, each in zip(self.history, numbers)]}
        if self._is_kept and self.best:
            found["saved_step"] = self.best.step
        return found

    @property
    def in_words(self) -> str | None:
        """The choice, where there was one."""
        if not self._is_kept or self.best is None:
            return None
        value, count = self.best.figures[_SCORE], sum(entry.step > 0 for entry in self.history)
        what = f"after update {self.best.step}, of {count} validations, with the score {value:.4f}"
        return f"{what}; these weights are saved"

    @property
    def is_over(self) -> bool:
        """Check whether patience is at its end."""
        if self._patience is None or self.best is None or self.best.figures[_SCORE] == 0:
            return False
        return sum(entry.step > self.best.step for entry in self.history) >= self._patience

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the networks have the best weights in place of theirs."""
        with weights.exchanged(self._values, self._named):
            yield

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return (tensors, JSON) for a checkpoint."""
        history = [[entry.step, entry.figures] for entry in self.history]
        return self._values, {"measures": self._measures, "history": history}

    def restore(self, tensors: Arrays, state: Mapping[str, Any]) -> None:
        """Put back what state() returned, unless it is of other measures."""
        if state["measures"] != self._measures:
            console.warn("the checkpoint's validations were measured otherwise, so those of this run begin anew")
            return
        self.history = [Entry(int(step), {name: float(each) for name, each in found.items()})
                        for step, found in state["history"]]  # fmt: skip
        if self._is_kept and self.best is not None:
            if not len(tensors):
                raise ValueError("it has the validations' figures, and not the best weights")
            self._values = weights.restored(tensors, self._named)


def _or_none(value: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return value if math.isfinite(value) else None
