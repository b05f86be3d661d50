"""Tables of figures: their means over runs, their spread over seeds, and the front of fidelity and class drift."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

from dreambooth.drawing import measures, plots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image

    from miniworld.evaluator import Figures

SHARE, DRIFT = "share of the way", "class drift"


class Value(NamedTuple):
    """The mean of a figure over subjects and seeds, and its standard deviation over seeds; None with one seed."""

    mean: float | None
    spread: float | None = None

    @property
    def text(self) -> str:
        """The value as a table has it."""
        if self.mean is None:
            return "–"
        return f"{self.mean:.2f}" if self.spread is None else f"{self.mean:.2f} ± {self.spread:.2f}"


def with_shares(found: Figures, base: Figures, real: Figures) -> Figures:
    """Add how far CLIP-I has come from the base to the subject's own pictures, and how far the class has come there."""
    return {
        SHARE: measures.share_gained(base["CLIP-I"], found["CLIP-I"], real["CLIP-I"]),
        DRIFT: measures.share_gained(base["PRES"], found["PRES"], real["PRES"]),
        **found,
    }


def mean_figures(rows: Sequence[Figures]) -> Figures:
    """Return the mean of each figure over several runs."""
    return {name: measures.mean_of_known(row[name] for row in rows) for name in rows[0]}


def values_of(by_seed: Mapping[int, Sequence[Figures]]) -> dict[str, Value]:
    """Return the mean of each figure, and its spread over the seeds of the means over subjects."""
    means = [mean_figures(rows) for rows in by_seed.values()]
    found = {}
    for name, mean in mean_figures(means).items():
        known = [each for row in means if (each := row[name]) is not None]
        found[name] = Value(mean, statistics.stdev(known) if len(known) > 1 else None)
    return found


def table(columns: Mapping[str, Figures]) -> str:
    """Return the figures {column: {figure: value}} as a table in Markdown."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for figure in next(iter(columns.values())):
        values = [Value(row.get(figure)).text for row in columns.values()]
        lines.append(f"| {figure} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def table_of_rows(rows: Mapping[str, Mapping[str, Value]]) -> str:
    """Return the figures {row: {figure: value}} as a table in Markdown."""
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row, values in rows.items():
        lines.append(f"| {row} | " + " | ".join(values.get(name, Value(None)).text for name in names) + " |")
    return "\n".join(lines)


def front(rows: Mapping[str, Mapping[str, Value]]) -> Image:
    """Draw how far each row's runs come to the subject, and how far they take the class there."""
    points = []
    for name, values in rows.items():
        share, drift = values.get(SHARE, Value(None)), values.get(DRIFT, Value(None))
        if share.mean is not None and drift.mean is not None:
            points.append(plots.Point(name, drift.mean, share.mean, drift.spread or 0.0, share.spread or 0.0))
    title = "class drift: the share of the way that the class takes (less is better)"
    return plots.scatter(points, title, "share of the way to the subject (more is better)")
