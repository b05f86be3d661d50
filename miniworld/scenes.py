"""The scenes: a backdrop behind a thing, and the bucket in front of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw

from miniworld import things

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from miniworld.things import Colour, Point


def blend(colour: Colour, other: Colour, share: float) -> Colour:
    """Mix two colours; `share` is that of the other one."""
    red, green, blue = (round(a * (1 - share) + b * share) for a, b in zip(colour, other))
    return red, green, blue


class Canvas:
    """A square picture whose points are shares of its side, from the top left."""

    def __init__(self, size: int) -> None:
        self.size = size  # pixels a side
        self.picture = Image.new("RGB", (size, size))
        self.pen = ImageDraw.Draw(self.picture)

    def fill(self, colour: Colour, points: Sequence[Point]) -> None:
        """Fill a polygon."""
        self.pen.polygon([(x * self.size, y * self.size) for x, y in points], fill=colour)

    def fill_rectangle(self, colour: Colour, left: float, top: float, right: float, bottom: float) -> None:
        """Fill a rectangle."""
        self.fill(colour, [(left, top), (right, top), (right, bottom), (left, bottom)])

    def fill_disc(self, colour: Colour, x: float, y: float, radius: float) -> None:
        """Fill a disc."""
        side = self.size
        self.pen.ellipse(
            [(x - radius) * side, (y - radius) * side, (x + radius) * side, (y + radius) * side], fill=colour
        )

    def draw_line(self, colour: Colour, points: Sequence[Point], width: float) -> None:
        """Draw a line of at least one pixel's width."""
        points = [(x * self.size, y * self.size) for x, y in points]
        self.pen.line(points, fill=colour, width=max(1, round(width * self.size)))


def uniform(stream: np.random.Generator, low: float, high: float) -> float:
    """Draw a number between two bounds from a stream."""
    return low + (high - low) * stream.random()


def _paint_sky(canvas: Canvas, horizon: float, top: Colour = (118, 186, 244), bottom: Colour = (196, 226, 250)) -> None:
    for k in range(8):
        colour = blend(top, bottom, k / 7)
        canvas.fill_rectangle(colour, 0, horizon * k / 8, 1, horizon * (k + 1) / 8 + 0.01)


def _paint_cloud(canvas: Canvas, stream: np.random.Generator) -> None:
    x, y, radius = uniform(stream, 0.1, 0.9), uniform(stream, 0.06, 0.2), uniform(stream, 0.05, 0.08)
    for step in (-1.2, 0, 1.2):
        canvas.fill_disc((250, 252, 255), x + step * radius, y, radius * (1 if step else 1.3))


def _paint_grass(canvas: Canvas, stream: np.random.Generator) -> None:
    horizon = uniform(stream, 0.42, 0.58)
    _paint_sky(canvas, horizon)
    _paint_cloud(canvas, stream)
    canvas.fill_rectangle((92, 176, 60), 0, horizon, 1, 1)
    for _ in range(26):
        x, y = stream.random(), uniform(stream, horizon + 0.05, 1)
        for lean in (-0.02, 0.0, 0.02):
            canvas.draw_line((54, 132, 38), [(x, y), (x + lean, y - 0.06)], 0.012)
    for _ in range(4):
        canvas.fill_disc((252, 250, 250), stream.random(), uniform(stream, horizon + 0.1, 1), 0.014)


def _paint_beach(canvas: Canvas, stream: np.random.Generator) -> None:
    horizon, shore = uniform(stream, 0.3, 0.42), uniform(stream, 0.54, 0.64)
    _paint_sky(canvas, horizon, (130, 206, 250), (220, 240, 250))
    canvas.fill_disc((255, 236, 120), uniform(stream, 0.1, 0.9), uniform(stream, 0.08, 0.18), 0.08)
    canvas.fill_rectangle((28, 120, 190), 0, horizon, 1, shore + 0.04)
    for k in range(3):
        y = horizon + (shore - horizon) * (k + 0.6) / 3
        wave = [(x / 12, y + 0.012 * math.sin(x * 1.9 + k + 6 * stream.random())) for x in range(13)]
        canvas.draw_line((150, 214, 240), wave, 0.012)
    canvas.fill(
        (240, 214, 150), [(0, shore), *[(x / 8, shore + 0.02 * math.sin(x * 2)) for x in range(9)], (1, 1), (0, 1)]
    )
    for _ in range(14):
        canvas.fill_disc((214, 182, 112), stream.random(), uniform(stream, shore + 0.06, 1), 0.009)


def _paint_snow(canvas: Canvas, stream: np.random.Generator) -> None:
    horizon = uniform(stream, 0.44, 0.58)
    _paint_sky(canvas, horizon, (168, 184, 204), (214, 222, 232))
    for _ in range(int(uniform(stream, 1, 4))):
        x, height = stream.random(), uniform(stream, 0.14, 0.24)
        for k in range(3):
            low, wide = horizon - height * k / 4, height * (0.42 - 0.1 * k)
            canvas.fill((58, 100, 88), [(x - wide, low), (x + wide, low), (x, low - height / 2)])
    canvas.fill_rectangle((226, 232, 242), 0, horizon, 1, 1)
    hills = [(x / 8, horizon + 0.025 * math.sin(x + 6 * stream.random())) for x in range(9)]
    canvas.fill((240, 244, 250), [(0, 1), *hills, (1, 1)])
    for _ in range(4):
        x, y = stream.random(), uniform(stream, horizon + 0.1, 1)
        canvas.draw_line((204, 216, 232), [(x - 0.1, y), (x, y - 0.012), (x + 0.1, y)], 0.014)
    for _ in range(24):
        canvas.fill_disc((255, 255, 255), stream.random(), stream.random() * horizon, uniform(stream, 0.008, 0.016))


def _paint_mountains(canvas: Canvas, stream: np.random.Generator) -> None:
    horizon = uniform(stream, 0.56, 0.66)
    _paint_sky(canvas, horizon, (150, 196, 236), (244, 222, 204))
    x = uniform(stream, -0.1, 0.1)
    while x < 1.1:
        wide, top = uniform(stream, 0.22, 0.34), uniform(stream, 0.1, 0.26)
        canvas.fill((112, 106, 124), [(x - wide, horizon), (x, top), (x + wide, horizon)])
        canvas.fill((84, 80, 98), [(x, top), (x + wide, horizon), (x + wide * 0.1, horizon)])
        share = 0.3
        low = top + (horizon - top) * share
        canvas.fill((250, 250, 252), [(x - wide * share, low), (x, top), (x + wide * share, low), (x, low - 0.04)])
        x += uniform(stream, 0.26, 0.4)
    canvas.fill_rectangle((134, 140, 92), 0, horizon, 1, 1)
    for _ in range(12):
        canvas.fill_disc(
            (104, 104, 80), stream.random(), uniform(stream, horizon + 0.04, 1), uniform(stream, 0.012, 0.03)
        )


def _paint_city(canvas: Canvas, stream: np.random.Generator) -> None:
    horizon = uniform(stream, 0.62, 0.7)
    _paint_sky(canvas, horizon, (206, 210, 216), (232, 226, 216))
    x = 0.0
    while x < 1:
        wide, top = uniform(stream, 0.14, 0.24), uniform(stream, 0.04, 0.34)
        wall = ((150, 104, 92), (128, 130, 142), (170, 152, 128), (98, 108, 130))[int(stream.random() * 4)]
        canvas.fill_rectangle(wall, x, top, x + wide - 0.01, horizon)
        for row in range(int((horizon - top) / 0.09)):
            for column in range(int(wide / 0.065)):
                left, upper = x + 0.02 + column * 0.065, top + 0.03 + row * 0.09
                canvas.fill_rectangle((250, 236, 160), left, upper, left + 0.032, upper + 0.05)
        x += wide
    canvas.fill_rectangle((178, 176, 172), 0, horizon, 1, horizon + 0.05)
    canvas.fill_rectangle((88, 90, 96), 0, horizon + 0.05, 1, 1)
    start = -uniform(stream, 0, 0.2)
    for k in range(6):
        canvas.fill_rectangle((244, 240, 226), start + k * 0.24, 0.9, start + k * 0.24 + 0.12, 0.925)


def _paint_night(canvas: Canvas, stream: np.random.Generator) -> None:
    horizon = uniform(stream, 0.6, 0.72)
    _paint_sky(canvas, horizon, (10, 14, 48), (34, 44, 98))
    for _ in range(30):
        canvas.fill_disc((250, 248, 220), stream.random(), stream.random() * horizon, uniform(stream, 0.006, 0.013))
    x, y = uniform(stream, 0.12, 0.88), uniform(stream, 0.1, 0.2)
    canvas.fill_disc((252, 246, 206), x, y, 0.08)
    canvas.fill_disc((14, 18, 54), x + 0.04, y - 0.02, 0.068)
    canvas.fill_rectangle((24, 34, 62), 0, horizon, 1, 1)
    canvas.fill((14, 26, 36), [(0, 1), *[(k / 8, horizon + 0.03 * math.sin(k * 1.3)) for k in range(9)], (1, 1)])


def _paint_carpet(canvas: Canvas, stream: np.random.Generator) -> None:
    horizon = uniform(stream, 0.46, 0.58)
    canvas.fill_rectangle((232, 214, 182), 0, 0, 1, horizon)
    for k in range(6):
        x = (k + uniform(stream, 0.2, 0.4)) / 6
        canvas.fill_rectangle((214, 192, 156), x, 0, x + 0.03, horizon)
    canvas.fill_rectangle((150, 108, 70), 0, horizon - 0.03, 1, horizon)
    canvas.fill_rectangle((176, 140, 98), 0, horizon, 1, 1)
    left, right = uniform(stream, 0.12, 0.2), uniform(stream, 0.8, 0.88)
    far = horizon + 0.03
    canvas.fill((232, 190, 70), [(left, far), (right, far), (right + 0.22, 1), (left - 0.22, 1)])
    canvas.fill(
        (190, 14, 34), [(left + 0.035, far + 0.02), (right - 0.035, far + 0.02), (right + 0.16, 1), (left - 0.16, 1)]
    )


def _paint_bucket(canvas: Canvas, stream: np.random.Generator) -> None:
    """Paint the wall; `paint_bucket_front` adds the bucket in front of the thing."""
    wall, gap = ((186, 142, 96), (146, 104, 64))
    canvas.fill_rectangle(wall, 0, 0, 1, 1)
    shift = stream.random() / 5
    for k in range(6):
        x = k / 5 - shift
        canvas.fill_rectangle(gap, x, 0, x + 0.014, 0.84)
    canvas.fill_rectangle((116, 80, 52), 0, 0.84, 1, 1)


def paint_bucket_front(canvas: Canvas, x: float, width: float, top: float) -> None:
    """Paint a metal bucket over the parts of a thing below `top`."""
    low = min(0.985, top + 0.46)
    for rim, colour in ((0.014, things.INK), (0.0, (148, 160, 172))):
        canvas.fill(
            colour,
            [
                (x - width - rim, top - rim),
                (x + width + rim, top - rim),
                (x + width * 0.76 + rim, low + rim),
                (x - width * 0.76 - rim, low + rim),
            ],
        )
    canvas.fill(
        (196, 206, 216),
        [(x - width * 0.7, top), (x - width * 0.4, top), (x - width * 0.36, low), (x - width * 0.56, low)],
    )
    for y in (top, top + 0.2):
        slope = width * (1 - 0.24 * (y - top) / (low - top))
        canvas.fill_rectangle((92, 104, 118), x - slope, y, x + slope, y + 0.035)


class Scene(NamedTuple):
    """A scene's backdrop, and the bounds for the height of a thing's feet, from the top."""

    paint_backdrop: Callable[[Canvas, np.random.Generator], None]
    feet: tuple[float, float]


# the keys are the scenes' names in captions
SCENES = {
    "on the grass": Scene(_paint_grass, (0.8, 0.94)),
    "on the beach": Scene(_paint_beach, (0.8, 0.94)),
    "in the snow": Scene(_paint_snow, (0.8, 0.94)),
    "in the mountains": Scene(_paint_mountains, (0.82, 0.94)),
    "in the city": Scene(_paint_city, (0.84, 0.95)),
    "at night": Scene(_paint_night, (0.84, 0.95)),
    "on a red carpet": Scene(_paint_carpet, (0.8, 0.94)),
    "in a bucket": Scene(_paint_bucket, (0.84, 0.9)),
}
