"""Curves over the updates of a run, as the shapes that a page draws."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from dreambooth.drawing import plots

if TYPE_CHECKING:
    from collections.abc import Sequence

    Points = Sequence[tuple[int, float]]

WIDTH, HEIGHT = 460, 220  # of a chart, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 26  # about the plot
_MOST_POINTS = 300  # of a curve; of more, the means of some that lie together are drawn
_MEMORY = 25  # updates over which a smoothed curve forgets
_MOST_DOTS = 40  # of a curve whose single points are marked


class Curve(NamedTuple):
    """A curve: its name, its number among the colours, its line, and the places of its points, if they are few."""

    name: str
    colour: int
    line: str
    faint: str  # the line before it was smoothed
    dots: tuple[tuple[float, float], ...]
    first: tuple[int, float]
    last: tuple[int, float]


class Mark(NamedTuple):
    """A mark on an axis, with its text."""

    place: float
    text: str


class Chart(NamedTuple):
    """Curves of one figure."""

    name: str
    curves: tuple[Curve, ...]
    across: tuple[Mark, ...]
    up: tuple[Mark, ...]
    line_at: float | None  # where a step is marked
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def chart(
    name: str, named: Sequence[tuple[str, Points]], smooth: bool = False, marked_step: int | None = None
) -> Chart | None:
    """Draw a figure's curves, by the names of what they are of; None where there is nothing to draw.

    A curve keeps the colour of its place, also where another has no points. `smooth` draws the points faintly, and
    over them their mean, which forgets.
    """
    present = [(number, of, points) for number, (of, points) in enumerate(named) if points]
    if not present:
        return None
    shown = {number: _thinned(points) for number, _, points in present}
    smoothed = {number: _thinned(_smoothed(points)) if smooth else shown[number] for number, _, points in present}
    everything = [point for several in (shown, smoothed) for points in several.values() for point in points]
    across = plots.Axis([(step, 0.0) for step, _ in everything])
    up = plots.Axis([(value, 0.0) for _, value in everything])

    def place(step: float, value: float) -> tuple[float, float]:
        x = _LEFT + across.share(step) * (WIDTH - _RIGHT - _LEFT)
        return round(x, 1), round(HEIGHT - _BOTTOM - up.share(value) * (HEIGHT - _BOTTOM - _TOP), 1)

    def line(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x:g},{y:g}" for x, y in (place(*point) for point in points))

    curves = []
    for number, of, points in present:
        dots = tuple(place(*point) for point in points) if len(points) <= _MOST_DOTS and not smooth else ()
        is_faint = smooth and len(points) > 2
        curves.append(
            Curve(
                of,
                number % 8,
                line(smoothed[number]),
                line(shown[number]) if is_faint else "",
                dots,
                (points[0][0], smoothed[number][0][1]),
                (points[-1][0], smoothed[number][-1][1]),
            )
        )
    return Chart(
        name,
        tuple(curves),
        tuple(Mark(place(mark, up.low)[0], across.text(mark)) for mark in across.marks if mark >= 0),
        tuple(Mark(place(across.low, mark)[1], up.text(mark)) for mark in up.marks),
        None if marked_step is None else place(marked_step, up.low)[0],
    )


def _smoothed(points: Points) -> list[tuple[int, float]]:
    """Return the mean of the points so far, which forgets those of some updates before.

    As the means of Adam (Kingma & Ba 2015), it is corrected so that the first points weigh no more than others.
    """
    mean, weight, found = 0.0, 0.0, []
    steps = [after - before for (before, _), (after, _) in pairwise(points)]
    for (step, value), passed in zip(points, [1, *steps]):
        kept = math.exp(-max(1, passed) / _MEMORY)
        mean, weight = kept * mean + (1 - kept) * value, kept * weight + (1 - kept)
        found.append((step, mean / weight))
    return found


def _thinned(points: Points) -> list[tuple[float, float]]:
    """Return at most so many points as a chart shows: the means of several that lie together."""
    group = -(-len(points) // _MOST_POINTS)
    groups = [points[first : first + group] for first in range(0, len(points), group)]
    return [(sum(s for s, _ in each) / len(each), sum(v for _, v in each) / len(each)) for each in groups]
