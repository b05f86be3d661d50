"""What things look like: the shapes of each class, of marks and of hats, in coordinates of their own.

A shape is a list of points about 0, x to the right and y up.
"""

import math

COLOURS = {
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
    # of subjects alone
    "purple": (138, 40, 206),
    "turquoise": (20, 206, 196),
    "lime": (170, 240, 30),
    "magenta": (236, 24, 150),
}
INK = (28, 24, 30)


def oval(x, y, width, height, turn=0.0, count=28):
    sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    corners = [(math.cos(2 * math.pi * k / count), math.sin(2 * math.pi * k / count)) for k in range(count)]
    return [
        (x + width * a * cosine - height * b * sine, y + width * a * sine + height * b * cosine) for a, b in corners
    ]


def box(left, bottom, right, top):
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def star(x, y, radius, points=5, inner=0.45):
    radii = [radius, radius * inner] * points
    turns = [math.pi / 2 + math.pi * k / points for k in range(2 * points)]
    return [(x + r * math.cos(turn), y + r * math.sin(turn)) for r, turn in zip(radii, turns)]


def heart(x, y, radius):
    turns = [2 * math.pi * k / 32 for k in range(32)]
    return [
        (
            x + radius * math.sin(t) ** 3,
            y + radius * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in turns
    ]


def bolt(x, y, radius):
    corners = [(0.1, 1), (-0.6, -0.1), (-0.1, -0.1), (-0.3, -1), (0.6, 0.2), (0.1, 0.2), (0.5, 1)]
    return [(x + radius * a, y + radius * b) for a, b in corners]


def ring(x, y, radius):
    return oval(x, y, radius, radius)


MARKS = {"star": star, "heart": heart, "bolt": bolt, "disc": ring}


# things: the shapes of each class from back to front, as (paint, points). "coat" has the look's colour and pattern,
# "shade" a darker one of it; then where a mark sits (x, y, radius), and a hat (x, y, width, turn).


def dog():
    """From the side, with a long body and hanging ears."""
    shapes = [
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
    return shapes, (-0.18, -0.1, 0.36), (0.54, 0.7, 0.32, -6)


def cat():
    """From the front, upright, with pointed ears and whiskers."""
    shapes = [
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
    return shapes, (0, -0.42, 0.36), (0, 0.72, 0.32, 0)


def bird():
    """A round one on two thin legs, with a beak and a spread tail."""
    shapes = [
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
    return shapes, (0.08, -0.14, 0.34), (0.4, 0.66, 0.3, -4)


def fish():
    """From the side, with a forked tail."""
    shapes = [
        ("shade", [(-0.5, 0.0), (-1.0, 0.5), (-0.86, 0.0), (-1.0, -0.5)]),
        ("shade", [(-0.3, 0.36), (0.02, 0.74), (0.36, 0.34)]),
        ("shade", [(-0.1, -0.38), (0.0, -0.72), (0.3, -0.36)]),
        ("coat", oval(0.14, 0.0, 0.8, 0.46)),
        ("white", oval(0.62, 0.12, 0.14, 0.14)),
        (INK, oval(0.65, 0.12, 0.07, 0.08)),
        (INK, [(0.72, -0.16), (0.9, -0.12), (0.9, -0.18), (0.74, -0.22)]),
    ]
    return shapes, (0.06, 0.0, 0.34), (0.3, 0.4, 0.3, -8)


def car():
    """From the side, with two wheels and windows."""
    shapes = [
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
    return shapes, (0.0, -0.28, 0.31), (-0.06, 0.5, 0.32, 0)


def house():
    """A wall with a door and two windows under a pointed roof."""
    shapes = [
        ("grey", box(0.36, 0.4, 0.56, 0.9)),
        ("coat", box(-0.72, -1, 0.72, 0.2)),
        ((112, 56, 44), [(-0.94, 0.16), (0, 0.92), (0.94, 0.16)]),
        ((98, 66, 40), box(0.3, -1, 0.6, -0.4)),
        ((255, 244, 170), box(-0.58, -0.2, -0.28, 0.06)),
        ((255, 244, 170), box(0.28, -0.2, 0.58, 0.06)),
    ]
    return shapes, (-0.14, -0.6, 0.33), (-0.3, 0.62, 0.3, 38)


def tree():
    """A trunk under a round crown."""
    shapes = [
        ((112, 72, 36), [(-0.2, -1), (-0.12, -0.1), (0.12, -0.1), (0.2, -1)]),
        ("coat", oval(-0.42, 0.06, 0.42, 0.36)),
        ("coat", oval(0.42, 0.06, 0.42, 0.36)),
        ("coat", oval(0, 0.42, 0.54, 0.48)),
        ("coat", oval(0, 0.06, 0.5, 0.36)),
    ]
    return shapes, (0, 0.26, 0.36), (0, 0.76, 0.32, 0)


def ball():
    """With a highlight and a seam."""
    shapes = [
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
    return shapes, (0.04, -0.24, 0.38), (0, 0.46, 0.32, 0)


CLASSES = {"ball": ball, "bird": bird, "car": car, "cat": cat, "dog": dog, "fish": fish, "house": house, "tree": tree}


def hat(place, colours):
    """A pointed one with bands of two colours and a bobble."""
    x, y, width, turn = place
    sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    height = 2.1 * width

    def band(low, high):
        return [
            (-width * (1 - low), height * low),
            (width * (1 - low), height * low),
            (width * (1 - high), height * high),
            (-width * (1 - high), height * high),
        ]

    parts = [(colours[k % 2], band(k / 4, (k + 1) / 4)) for k in range(4)]
    parts.append((colours[1], oval(0, height, 0.12, 0.12)))
    return [(paint, [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in part]) for paint, part in parts]
