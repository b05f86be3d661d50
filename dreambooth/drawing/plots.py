"""Plots of figures, drawn by Pillow alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw

from dreambooth.drawing import sheets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT, _MARGIN = 640, 480, 80  # pixels of a plot, and of its edge, where the axes' texts are
_PANEL = 120  # pixels: the height of one of several curves
_DOT, _TICK = 9, 5  # pixels: the radius of a point, the length of a mark
_STEPS = (1, 2, 5, 10)  # between two marks, times a power of ten
_MARKS = 5  # on an axis, about
# dark enough for white numbers on them, and told apart without red and green (Okabe & Ito 2008)
_COLOURS = ("#0072B2", "#D55E00", "#007A5A", "#A3447D", "#5C5C5C", "#8C6A00", "#3B4CC0", "#B40426")


class Point(NamedTuple):
    """A point of a plot; the spreads are half the lengths of its cross."""

    name: str
    x: float
    y: float
    spread_x: float = 0.0
    spread_y: float = 0.0


def scatter(points: Sequence[Point], title_x: str, title_y: str) -> Image.Image:
    """Draw numbered points with their spreads, and their names beside the plot."""
    font, _ = sheets.font_for([])
    names = [f"{number}  {point.name}" for number, point in enumerate(points, 1)]
    legend = int(max(map(font.getlength, names), default=0)) + 3 * _DOT
    line = sheets.TEXT_HEIGHT
    height = max(_HEIGHT, _MARGIN + len(points) * line + line)
    picture = Image.new("RGB", (_WIDTH + legend, height), "white")
    pen = ImageDraw.Draw(picture)
    left, right, top, bottom = _MARGIN, _WIDTH - 2 * _DOT, 2 * _DOT, height - _MARGIN
    axes = Axis([(p.x, p.spread_x) for p in points]), Axis([(p.y, p.spread_y) for p in points])

    def place(x: float, y: float) -> tuple[float, float]:
        return left + axes[0].share(x) * (right - left), bottom - axes[1].share(y) * (bottom - top)

    pen.rectangle((left, top, right, bottom), outline="black")
    for mark in axes[0].marks:
        x, _ = place(mark, axes[1].low)
        pen.line((x, bottom, x, bottom + _TICK), "black")
        pen.text((x, bottom + _TICK), axes[0].text(mark), "black", font, anchor="mt")
    for mark in axes[1].marks:
        _, y = place(axes[0].low, mark)
        pen.line((left - _TICK, y, left, y), "black")
        pen.text((left - 2 * _TICK, y), axes[1].text(mark), "black", font, anchor="rm")
    pen.text(((left + right) / 2, height - _TICK), title_x, "black", font, anchor="mb")
    _write_upwards(picture, title_y, (_TICK, (top + bottom) // 2))
    for number, point in enumerate(points, 1):
        colour = _COLOURS[(number - 1) % len(_COLOURS)]
        for dx, dy in ((point.spread_x, 0.0), (0.0, point.spread_y)):
            ends = (*place(point.x - dx, point.y - dy), *place(point.x + dx, point.y + dy))
            pen.line(ends, colour, 1)
        x, y = place(point.x, point.y)
        pen.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), colour)
        pen.text((x, y), str(number), "white", font, anchor="mm")
        pen.text((_WIDTH, top + (number - 1) * line), names[number - 1], colour, font)
    return picture


class Axis:
    """An axis that has room for values with their spreads."""

    def __init__(self, values: Sequence[tuple[float, float]]) -> None:
        low = min((value - spread for value, spread in values), default=0.0)
        high = max((value + spread for value, spread in values), default=1.0)
        room = (high - low) * 0.05 or abs(high) * 0.5 or 0.5
        self.low, self.high = low - room, high + room
        rough = (self.high - self.low) / _MARKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(each for each in _STEPS if each * power >= rough) * power
        self._digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first = math.ceil(self.low / step)
        self.marks = [number * step for number in range(first, math.floor(self.high / step) + 1)]

    def share(self, value: float) -> float:
        """Return the place of a value on the axis, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def text(self, mark: float) -> str:
        """Return a mark as it is written."""
        return f"{mark + 0.0:.{self._digits}f}"


def _write_upwards(picture: Image.Image, text: str, place: tuple[int, int]) -> None:
    """Write a text from below to above, with the middle of its left edge at a place."""
    font, _ = sheets.font_for([])
    strip = Image.new("RGB", (int(font.getlength(text)) + 2, sheets.TEXT_HEIGHT), "white")
    ImageDraw.Draw(strip).text((0, 0), text, "black", font)
    turned = strip.rotate(90, expand=True)
    picture.paste(turned, (place[0], place[1] - turned.height // 2))


def curves(history: Sequence[tuple[int, Mapping[str, float]]], first: str) -> Image.Image:
    """Draw a panel for each figure over the steps, that of `first` on top; the step of its best value is marked."""
    names = [first, *(name for name in dict.fromkeys(name for _, row in history for name in row) if name != first)]
    font, _ = sheets.font_for([])
    picture = Image.new("RGB", (_WIDTH, len(names) * _PANEL + _MARGIN // 2), "white")
    pen = ImageDraw.Draw(picture)
    best = max(((row[first], -step) for step, row in history if step and math.isfinite(row[first])), default=None)
    steps = Axis([(float(step), 0.0) for step, _ in history])
    left, right = _MARGIN, _WIDTH - 2 * _DOT

    def across(step: float) -> float:
        return left + steps.share(step) * (right - left)

    for number, name in enumerate(names):
        colour = _COLOURS[number % len(_COLOURS)]
        top, bottom = number * _PANEL + sheets.TEXT_HEIGHT, (number + 1) * _PANEL - _TICK
        known = [(step, row[name]) for step, row in history if name in row and math.isfinite(row[name])]
        axis = Axis([(value, 0.0) for _, value in known])
        pen.text((left, top), name, colour, font, anchor="lb")
        pen.rectangle((left, top, right, bottom), outline="lightgrey")
        for mark in axis.marks[:: max(1, len(axis.marks) // 3)]:
            y = bottom - axis.share(mark) * (bottom - top)
            pen.text((left - _TICK, y), axis.text(mark), "black", font, anchor="rm")
        if best is not None:
            x = across(-best[1])
            pen.line((x, top, x, bottom), "grey")
        places = [(across(step), bottom - axis.share(value) * (bottom - top)) for step, value in known]
        pen.line(places, colour, 2)
        for x, y in places:
            pen.ellipse((x - 2, y - 2, x + 2, y + 2), colour)
    for mark in steps.marks:
        pen.text((across(mark), picture.height - _MARGIN // 2), steps.text(mark), "black", font, anchor="mt")
    return picture
