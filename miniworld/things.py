"""The shapes of the world's things, marks and hats.

A polygon's points lie around (0, 0), with x to the right and y up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

Point = tuple[float, float]
Polygon = list[Point]
Colour = tuple[int, int, int]  # red, green, blue, each 0 .. 255
Paint = str | Colour  # a name in COLOURS, "coat" for the look's colour, "shade" for a darker one, or a colour
Shape = tuple[Paint, Polygon]
Circle = tuple[float, float, float]  # x, y, radius
HatPosition = tuple[float, float, float, float]  # x, y, width, turn in degrees


@dataclass(frozen=True)
class Look:
    """The look of a thing; the world's own things have neither a mark nor a hat."""

    kind: str  # a class
    colour: str
    pattern: str | None = None
    mark: tuple[str, str] | None = None  # its colour and shape
    hat: tuple[str, str] | None = None  # its two colours


class Figure(NamedTuple):
    """A thing of one class: its shapes from back to front, and the positions of a mark and of a hat."""

    shapes: list[Shape]
    mark: Circle
    hat: HatPosition


COLOURS: dict[str, Colour] = {
    "black": (44, 42, 48),
    "blue": (40, 84, 214),
    "brown": (134, 82, 38),
    "green": (38, 146, 52),
    "grey": (140, 142, 146),
    "orange": (244, 136, 28),
    "pink": (248, 148, 184),
    "red": (214, 34, 38),
    "white": (246, 246, 242),
    "yellow": (250, 212, 44),
    # only subjects have these
    "purple": (138, 40, 206),
    "turquoise": (20, 206, 196),
    "lime": (170, 240, 30),
    "magenta": (236, 24, 150),
}
INK = (28, 24, 30)


def oval(x: float, y: float, width: float, height: float, turn: float = 0.0, count: int = 28) -> Polygon:
    """Return an ellipse of `count` points with two half axes, turned by degrees."""
    sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    corners = [(math.cos(2 * math.pi * k / count), math.sin(2 * math.pi * k / count)) for k in range(count)]
    return [
        (x + width * a * cosine - height * b * sine, y + width * a * sine + height * b * cosine) for a, b in corners
    ]


def box(left: float, bottom: float, right: float, top: float) -> Polygon:
    """Return an upright rectangle."""
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def star(x: float, y: float, radius: float, points: int = 5, inner: float = 0.45) -> Polygon:
    """Return a star whose inner corners lie at the share `inner` of the radius."""
    radii = [radius, radius * inner] * points
    turns = [math.pi / 2 + math.pi * k / points for k in range(2 * points)]
    return [(x + r * math.cos(turn), y + r * math.sin(turn)) for r, turn in zip(radii, turns)]


def heart(x: float, y: float, radius: float) -> Polygon:
    """Return a heart."""
    turns = [2 * math.pi * k / 32 for k in range(32)]
    return [
        (
            x + radius * math.sin(t) ** 3,
            y + radius * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in turns
    ]


def bolt(x: float, y: float, radius: float) -> Polygon:
    """Return a lightning bolt."""
    corners = [(0.1, 1), (-0.6, -0.1), (-0.1, -0.1), (-0.3, -1), (0.6, 0.2), (0.1, 0.2), (0.5, 1)]
    return [(x + radius * a, y + radius * b) for a, b in corners]


def disc(x: float, y: float, radius: float) -> Polygon:
    """Return a disc."""
    return oval(x, y, radius, radius)


MARKS: dict[str, Callable[[float, float, float], Polygon]] = {"star": star, "heart": heart, "bolt": bolt, "disc": disc}


def dog() -> Figure:
    """Return a dog from the side, with a long body and hanging ears."""
    shapes: list[Shape] = [
        ("shade", box(-0.46, -1, -0.3, -0.2)),
        ("shade", box(0.22, -1, 0.38, -0.2)),
        ("coat", [(-0.66, 0.0), (-0.98, 0.5), (-0.86, 0.6), (-0.5, 0.2)]),
        ("coat", oval(-0.12, -0.12, 0.68, 0.4)),
        ("coat", box(-0.7, -1, -0.5, -0.15)),
        ("coat", box(0.02, -1, 0.2, -0.15)),
        ("coat", [(0.2, -0.05), (0.55, 0.0), (0.8, 0.4), (0.4, 0.5)]),
        ("coat", oval(0.58, 0.44, 0.34, 0.32)),
        ("coat", oval(0.86, 0.32, 0.24, 0.16)),
        ("shade", oval(0.36, 0.36, 0.13, 0.34, -14)),
        (INK, oval(1.04, 0.38, 0.09, 0.08)),
        ("white", oval(0.68, 0.54, 0.1, 0.11)),
        (INK, oval(0.71, 0.53, 0.06, 0.07)),
    ]
    return Figure(shapes, mark=(-0.18, -0.1, 0.36), hat=(0.54, 0.7, 0.32, -6))


def cat() -> Figure:
    """Return a cat that sits upright, from the front, with pointed ears and whiskers."""
    shapes: list[Shape] = [
        (
            "coat",
            [
                (0.3, -0.9),
                (0.75, -0.85),
                (0.92, -0.4),
                (0.8, 0.05),
                (0.66, -0.02),
                (0.72, -0.4),
                (0.6, -0.66),
                (0.3, -0.66),
            ],
        ),
        ("coat", [(-0.3, 0.1), (-0.52, -0.6), (-0.46, -1), (0.46, -1), (0.52, -0.6), (0.3, 0.1)]),
        ("coat", [(-0.5, 0.4), (-0.5, 1.0), (-0.08, 0.7)]),
        ("coat", [(0.5, 0.4), (0.5, 1.0), (0.08, 0.7)]),
        ("coat", oval(0, 0.4, 0.54, 0.4)),
        ("pink", [(-0.43, 0.62), (-0.43, 0.86), (-0.24, 0.72)]),
        ("pink", [(0.43, 0.62), (0.43, 0.86), (0.24, 0.72)]),
        ("shade", oval(-0.2, -0.94, 0.16, 0.1)),
        ("shade", oval(0.2, -0.94, 0.16, 0.1)),
        ((190, 240, 90), oval(-0.22, 0.46, 0.13, 0.13)),
        ((190, 240, 90), oval(0.22, 0.46, 0.13, 0.13)),
        (INK, oval(-0.22, 0.46, 0.05, 0.13)),
        (INK, oval(0.22, 0.46, 0.05, 0.13)),
        ("pink", [(-0.09, 0.3), (0.09, 0.3), (0, 0.2)]),
        ("white", [(-0.14, 0.22), (-0.72, 0.3), (-0.72, 0.34), (-0.14, 0.26)]),
        ("white", [(0.14, 0.22), (0.72, 0.3), (0.72, 0.34), (0.14, 0.26)]),
        ("white", [(-0.14, 0.18), (-0.7, 0.1), (-0.7, 0.14), (-0.14, 0.22)]),
        ("white", [(0.14, 0.18), (0.7, 0.1), (0.7, 0.14), (0.14, 0.22)]),
    ]
    return Figure(shapes, mark=(0, -0.42, 0.36), hat=(0, 0.72, 0.32, 0))


def bird() -> Figure:
    """Return a round bird on two thin legs, with a beak and a spread tail."""
    shapes: list[Shape] = [
        ("orange", [(-0.14, -1), (-0.08, -1), (-0.04, -0.4), (-0.12, -0.4)]),
        ("orange", [(0.14, -1), (0.2, -1), (0.18, -0.4), (0.1, -0.4)]),
        ("orange", box(-0.16, -1, 0.1, -0.94)),
        ("orange", box(0.12, -1, 0.38, -0.94)),
        ("shade", [(-0.5, -0.1), (-1.0, 0.34), (-1.0, -0.3)]),
        ("coat", oval(-0.05, -0.12, 0.6, 0.46, 14)),
        ("coat", oval(0.42, 0.4, 0.34, 0.32)),
        ("orange", [(0.7, 0.5), (1.06, 0.36), (0.7, 0.24)]),
        ("white", oval(0.5, 0.46, 0.11, 0.12)),
        (INK, oval(0.53, 0.46, 0.06, 0.07)),
        ("shade", [(-0.62, 0.2), (-0.2, 0.16), (-0.3, -0.18), (-0.6, -0.2), (-0.84, -0.02)]),
    ]
    return Figure(shapes, mark=(0.08, -0.14, 0.34), hat=(0.4, 0.66, 0.3, -4))


def fish() -> Figure:
    """Return a fish from the side, with a forked tail."""
    shapes: list[Shape] = [
        ("shade", [(-0.5, 0.0), (-1.0, 0.5), (-0.86, 0.0), (-1.0, -0.5)]),
        ("shade", [(-0.3, 0.36), (0.02, 0.74), (0.36, 0.34)]),
        ("shade", [(-0.1, -0.38), (0.0, -0.72), (0.3, -0.36)]),
        ("coat", oval(0.14, 0.0, 0.8, 0.46)),
        ("white", oval(0.62, 0.12, 0.14, 0.14)),
        (INK, oval(0.65, 0.12, 0.07, 0.08)),
        (INK, [(0.72, -0.16), (0.9, -0.12), (0.9, -0.18), (0.74, -0.22)]),
    ]
    return Figure(shapes, mark=(0.06, 0.0, 0.34), hat=(0.3, 0.4, 0.3, -8))


def car() -> Figure:
    """Return a car from the side, with two wheels and two windows."""
    shapes: list[Shape] = [
        ("coat", [(-0.6, 0.0), (-0.42, 0.52), (0.3, 0.52), (0.58, 0.0)]),
        ("coat", [(-1, -0.62), (-1, 0.0), (-0.9, 0.06), (0.94, 0.04), (1, -0.1), (1, -0.62)]),
        ((188, 226, 246), [(-0.46, 0.06), (-0.34, 0.42), (-0.1, 0.42), (-0.1, 0.06)]),
        ((188, 226, 246), [(0.0, 0.06), (0.0, 0.42), (0.24, 0.42), (0.42, 0.06)]),
        ("yellow", oval(0.92, -0.16, 0.08, 0.1)),
        (INK, oval(-0.56, -0.62, 0.28, 0.28)),
        (INK, oval(0.56, -0.62, 0.28, 0.28)),
        ("grey", oval(-0.56, -0.62, 0.12, 0.12)),
        ("grey", oval(0.56, -0.62, 0.12, 0.12)),
    ]
    return Figure(shapes, mark=(0.0, -0.28, 0.31), hat=(-0.06, 0.5, 0.32, 0))


def house() -> Figure:
    """Return a wall with a door and two windows under a pointed roof."""
    shapes: list[Shape] = [
        ("grey", box(0.36, 0.4, 0.56, 0.9)),
        ("coat", box(-0.72, -1, 0.72, 0.2)),
        ((112, 56, 44), [(-0.94, 0.16), (0, 0.92), (0.94, 0.16)]),
        ((98, 66, 40), box(0.3, -1, 0.6, -0.4)),
        ((255, 244, 170), box(-0.58, -0.2, -0.28, 0.06)),
        ((255, 244, 170), box(0.28, -0.2, 0.58, 0.06)),
    ]
    return Figure(shapes, mark=(-0.14, -0.6, 0.33), hat=(-0.3, 0.62, 0.3, 38))


def tree() -> Figure:
    """Return a trunk under a round crown."""
    shapes: list[Shape] = [
        ((112, 72, 36), [(-0.2, -1), (-0.12, -0.1), (0.12, -0.1), (0.2, -1)]),
        ("coat", oval(-0.42, 0.06, 0.42, 0.36)),
        ("coat", oval(0.42, 0.06, 0.42, 0.36)),
        ("coat", oval(0, 0.42, 0.54, 0.48)),
        ("coat", oval(0, 0.06, 0.5, 0.36)),
    ]
    return Figure(shapes, mark=(0, 0.26, 0.36), hat=(0, 0.76, 0.32, 0))


def ball() -> Figure:
    """Return a ball with a highlight and a seam."""
    shapes: list[Shape] = [
        ("coat", oval(0, -0.24, 0.76, 0.76, count=40)),
        (
            "shade",
            [
                (-0.75, -0.2),
                (-0.4, -0.66),
                (0.0, -0.8),
                (0.4, -0.66),
                (0.75, -0.2),
                (0.4, -0.56),
                (0.0, -0.69),
                (-0.4, -0.56),
            ],
        ),
        ("white", oval(-0.32, 0.14, 0.15, 0.1, 35)),
    ]
    return Figure(shapes, mark=(0.04, -0.24, 0.38), hat=(0, 0.46, 0.32, 0))


CLASSES: dict[str, Callable[[], Figure]] = {
    "ball": ball,
    "bird": bird,
    "car": car,
    "cat": cat,
    "dog": dog,
    "fish": fish,
    "house": house,
    "tree": tree,
}


def hat(position: HatPosition, colours: tuple[Paint, Paint]) -> list[Shape]:
    """Return a pointed hat with bands of two colours and a bobble."""
    x, y, width, turn = position
    sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    height = 2.1 * width

    def band(low: float, high: float) -> Polygon:
        return [
            (-width * (1 - low), height * low),
            (width * (1 - low), height * low),
            (width * (1 - high), height * high),
            (-width * (1 - high), height * high),
        ]

    parts = [(colours[k % 2], band(k / 4, (k + 1) / 4)) for k in range(4)]
    parts.append((colours[1], oval(0, height, 0.12, 0.12)))
    return [(paint, [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in part]) for paint, part in parts]
