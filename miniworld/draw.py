"""The renderer: one thing in one scene, drawn with Pillow at four times the size and reduced."""

import math

from PIL import Image, ImageDraw

FINER = 4
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


# shapes: lists of points about 0, x to the right and y up


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
    return shapes, (0, 0.26, 0.36), (0, 0.84, 0.32, 0)


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


# scenes: a backdrop on a canvas of `size` pixels, with the height of the ground that things stand on


def blend(colour, other, share):
    return tuple(round(a * (1 - share) + b * share) for a, b in zip(colour, other))


class Canvas:
    """A picture whose points are given as shares of its side, from the top left."""

    def __init__(self, size):
        self.size = size
        self.picture = Image.new("RGB", (size, size))
        self.pen = ImageDraw.Draw(self.picture)

    def fill(self, colour, points):
        self.pen.polygon([(x * self.size, y * self.size) for x, y in points], fill=colour)

    def rectangle(self, colour, left, top, right, bottom):
        self.fill(colour, [(left, top), (right, top), (right, bottom), (left, bottom)])

    def disc(self, colour, x, y, radius):
        side = self.size
        self.pen.ellipse(
            [(x - radius) * side, (y - radius) * side, (x + radius) * side, (y + radius) * side], fill=colour
        )

    def line(self, colour, points, width):
        points = [(x * self.size, y * self.size) for x, y in points]
        self.pen.line(points, fill=colour, width=max(1, round(width * self.size)))


def uniform(stream, low, high):
    return low + (high - low) * stream.random()


def sky(canvas, horizon, top=(118, 186, 244), bottom=(196, 226, 250)):
    for k in range(8):
        colour = blend(top, bottom, k / 7)
        canvas.rectangle(colour, 0, horizon * k / 8, 1, horizon * (k + 1) / 8 + 0.01)


def cloud(canvas, stream):
    x, y, radius = uniform(stream, 0.1, 0.9), uniform(stream, 0.06, 0.2), uniform(stream, 0.05, 0.08)
    for step in (-1.2, 0, 1.2):
        canvas.disc((250, 252, 255), x + step * radius, y, radius * (1 if step else 1.3))


def grass(canvas, stream):
    horizon = uniform(stream, 0.42, 0.58)
    sky(canvas, horizon)
    cloud(canvas, stream)
    canvas.rectangle((92, 176, 60), 0, horizon, 1, 1)
    for _ in range(26):
        x, y = stream.random(), uniform(stream, horizon + 0.05, 1)
        for lean in (-0.02, 0.0, 0.02):
            canvas.line((54, 132, 38), [(x, y), (x + lean, y - 0.06)], 0.012)
    for _ in range(4):
        canvas.disc((252, 250, 250), stream.random(), uniform(stream, horizon + 0.1, 1), 0.014)


def beach(canvas, stream):
    horizon, shore = uniform(stream, 0.3, 0.42), uniform(stream, 0.54, 0.64)
    sky(canvas, horizon, (130, 206, 250), (220, 240, 250))
    canvas.disc((255, 236, 120), uniform(stream, 0.1, 0.9), uniform(stream, 0.08, 0.18), 0.08)
    canvas.rectangle((28, 120, 190), 0, horizon, 1, shore + 0.04)
    for k in range(3):
        y = horizon + (shore - horizon) * (k + 0.6) / 3
        wave = [(x / 12, y + 0.012 * math.sin(x * 1.9 + k + 6 * stream.random())) for x in range(13)]
        canvas.line((150, 214, 240), wave, 0.012)
    canvas.fill(
        (240, 214, 150), [(0, shore), *[(x / 8, shore + 0.02 * math.sin(x * 2)) for x in range(9)], (1, 1), (0, 1)]
    )
    for _ in range(14):
        canvas.disc((214, 182, 112), stream.random(), uniform(stream, shore + 0.06, 1), 0.009)


def snow(canvas, stream):
    horizon = uniform(stream, 0.44, 0.58)
    sky(canvas, horizon, (168, 184, 204), (214, 222, 232))
    for _ in range(int(uniform(stream, 1, 4))):
        x, height = stream.random(), uniform(stream, 0.14, 0.24)
        for k in range(3):
            low, wide = horizon - height * k / 4, height * (0.42 - 0.1 * k)
            canvas.fill((58, 100, 88), [(x - wide, low), (x + wide, low), (x, low - height / 2)])
    canvas.rectangle((226, 232, 242), 0, horizon, 1, 1)
    hills = [(x / 8, horizon + 0.025 * math.sin(x + 6 * stream.random())) for x in range(9)]
    canvas.fill((240, 244, 250), [(0, 1), *hills, (1, 1)])
    for _ in range(4):
        x, y = stream.random(), uniform(stream, horizon + 0.1, 1)
        canvas.line((204, 216, 232), [(x - 0.1, y), (x, y - 0.012), (x + 0.1, y)], 0.014)
    for _ in range(24):
        canvas.disc((255, 255, 255), stream.random(), stream.random() * horizon, uniform(stream, 0.008, 0.016))


def mountains(canvas, stream):
    horizon = uniform(stream, 0.56, 0.66)
    sky(canvas, horizon, (150, 196, 236), (244, 222, 204))
    x = uniform(stream, -0.1, 0.1)
    while x < 1.1:
        wide, top = uniform(stream, 0.22, 0.34), uniform(stream, 0.1, 0.26)
        canvas.fill((112, 106, 124), [(x - wide, horizon), (x, top), (x + wide, horizon)])
        canvas.fill((84, 80, 98), [(x, top), (x + wide, horizon), (x + wide * 0.1, horizon)])
        share = 0.3
        low = top + (horizon - top) * share
        canvas.fill((250, 250, 252), [(x - wide * share, low), (x, top), (x + wide * share, low), (x, low - 0.04)])
        x += uniform(stream, 0.26, 0.4)
    canvas.rectangle((134, 140, 92), 0, horizon, 1, 1)
    for _ in range(12):
        canvas.disc((104, 104, 80), stream.random(), uniform(stream, horizon + 0.04, 1), uniform(stream, 0.012, 0.03))


def city(canvas, stream):
    horizon = uniform(stream, 0.62, 0.7)
    sky(canvas, horizon, (206, 210, 216), (232, 226, 216))
    x = 0.0
    while x < 1:
        wide, top = uniform(stream, 0.14, 0.24), uniform(stream, 0.04, 0.34)
        wall = ((150, 104, 92), (128, 130, 142), (170, 152, 128), (98, 108, 130))[int(stream.random() * 4)]
        canvas.rectangle(wall, x, top, x + wide - 0.01, horizon)
        for row in range(int((horizon - top) / 0.09)):
            for column in range(int(wide / 0.065)):
                left, upper = x + 0.02 + column * 0.065, top + 0.03 + row * 0.09
                canvas.rectangle((250, 236, 160), left, upper, left + 0.032, upper + 0.05)
        x += wide
    canvas.rectangle((178, 176, 172), 0, horizon, 1, horizon + 0.05)
    canvas.rectangle((88, 90, 96), 0, horizon + 0.05, 1, 1)
    start = -uniform(stream, 0, 0.2)
    for k in range(6):
        canvas.rectangle((244, 240, 226), start + k * 0.24, 0.9, start + k * 0.24 + 0.12, 0.925)


def night(canvas, stream):
    horizon = uniform(stream, 0.6, 0.72)
    sky(canvas, horizon, (10, 14, 48), (34, 44, 98))
    for _ in range(30):
        canvas.disc((250, 248, 220), stream.random(), stream.random() * horizon, uniform(stream, 0.006, 0.013))
    x, y = uniform(stream, 0.12, 0.88), uniform(stream, 0.1, 0.2)
    canvas.disc((252, 246, 206), x, y, 0.08)
    canvas.disc((14, 18, 54), x + 0.04, y - 0.02, 0.068)
    canvas.rectangle((24, 34, 62), 0, horizon, 1, 1)
    canvas.fill((14, 26, 36), [(0, 1), *[(k / 8, horizon + 0.03 * math.sin(k * 1.3)) for k in range(9)], (1, 1)])


def carpet(canvas, stream):
    horizon = uniform(stream, 0.46, 0.58)
    canvas.rectangle((232, 214, 182), 0, 0, 1, horizon)
    for k in range(6):
        x = (k + uniform(stream, 0.2, 0.4)) / 6
        canvas.rectangle((214, 192, 156), x, 0, x + 0.03, horizon)
    canvas.rectangle((150, 108, 70), 0, horizon - 0.03, 1, horizon)
    canvas.rectangle((176, 140, 98), 0, horizon, 1, 1)
    left, right = uniform(stream, 0.12, 0.2), uniform(stream, 0.8, 0.88)
    far = horizon + 0.03
    canvas.fill((232, 190, 70), [(left, far), (right, far), (right + 0.22, 1), (left - 0.22, 1)])
    canvas.fill(
        (190, 14, 34), [(left + 0.035, far + 0.02), (right - 0.035, far + 0.02), (right + 0.16, 1), (left - 0.16, 1)]
    )


def bucket(canvas, stream):
    """The wall behind; the bucket itself comes in front of the thing."""
    wall, gap = ((186, 142, 96), (146, 104, 64))
    canvas.rectangle(wall, 0, 0, 1, 1)
    shift = stream.random() / 5
    for k in range(6):
        x = k / 5 - shift
        canvas.rectangle(gap, x, 0, x + 0.014, 0.84)
    canvas.rectangle((116, 80, 52), 0, 0.84, 1, 1)


def bucket_front(canvas, x, width, top):
    """A metal bucket that hides what is below `top`."""
    low = min(0.985, top + 0.46)
    for rim, colour in ((0.014, INK), (0.0, (148, 160, 172))):
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
        canvas.rectangle((92, 104, 118), x - slope, y, x + slope, y + 0.035)


# name in a caption -> (backdrop, how far down the feet of a thing may be)
SCENES = {
    "on the grass": (grass, (0.8, 0.94)),
    "on the beach": (beach, (0.8, 0.94)),
    "in the snow": (snow, (0.8, 0.94)),
    "in the mountains": (mountains, (0.82, 0.94)),
    "in the city": (city, (0.84, 0.95)),
    "at night": (night, (0.84, 0.95)),
    "on a red carpet": (carpet, (0.8, 0.94)),
    "in a bucket": (bucket, (0.84, 0.9)),
}


def draw(look, scene, stream, size=64):
    """A picture of `look` in `scene`; its details come from `stream`, a NumPy generator."""
    canvas = Canvas(size * FINER)
    backdrop, feet = SCENES[scene]
    backdrop(canvas, stream)
    shapes, mark, top = CLASSES[look.kind]()

    # Place it: its feet on the ground, its hat inside of the picture
    scale = uniform(stream, 0.33, 0.4)
    x, y = uniform(stream, 0.41, 0.59), uniform(stream, *feet)
    turn = math.radians(uniform(stream, -7, 7))
    flip = -1 if stream.random() < 0.5 else 1
    if look.hat:
        scale = min(scale, 0.37)
    centre = y - scale * (0.78 if scene == "in a bucket" else 1)
    if look.hat:
        centre = max(centre, 1.55 * scale)
    sine, cosine = math.sin(turn), math.cos(turn)

    def place(points):
        spots = [(a * flip * cosine - b * sine, a * flip * sine + b * cosine) for a, b in points]
        return [((x + scale * a) * canvas.size, (centre - scale * b) * canvas.size) for a, b in spots]

    coat = COLOURS[look.colour]
    dim = (lambda colour: blend(colour, (16, 22, 70), 0.2)) if scene == "at night" else (lambda colour: colour)
    paints = {**COLOURS, "coat": coat, "shade": blend(coat, INK, 0.3)}

    def paint(name):
        return dim(paints[name] if isinstance(name, str) else name)

    outlined = len(shapes)
    if look.mark:
        colour, name = look.mark
        shapes = shapes + [(INK, MARKS[name](mark[0], mark[1], mark[2] * 1.16)), (colour, MARKS[name](*mark))]
    worn = hat(top, look.hat) if look.hat else []
    shapes = shapes + worn

    # The outline, then the shapes; the pattern lies on the coat and below everything that follows the coat
    edge = round(0.02 * canvas.size)
    for _, points in shapes[:outlined] + worn:
        spots = place(points)
        canvas.pen.line([*spots, spots[0], spots[1]], fill=dim(INK), width=edge, joint="curve")
    last = max(index for index, (name, _) in enumerate(shapes) if name == "coat")
    for index, (name, points) in enumerate(shapes):
        canvas.pen.polygon(place(points), fill=paint(name))
        if index == last and look.pattern:
            lay_pattern(
                canvas, look, [place(points) for name, points in shapes[: last + 1] if name == "coat"], stream, dim
            )
    if scene == "in a bucket":
        bucket_front(canvas, x, scale * 0.98, min(centre + scale * 0.6, 0.74))
    return canvas.picture.reduce(FINER)


def lay_pattern(canvas, look, coats, stream, dim):
    """Spots or stripes over the coat alone, dark on a light coat and light on a dark one."""
    coat = COLOURS[look.colour]
    light = sum(coat) > 330
    colour = dim(blend(coat, INK if light else (255, 255, 255), 0.72))
    over = Canvas(canvas.size)
    over.picture.paste(colour, (0, 0, canvas.size, canvas.size))
    mask = Image.new("L", (canvas.size, canvas.size))
    shape = ImageDraw.Draw(mask)
    for points in coats:
        shape.polygon(points, fill=255)
    holes = Image.new("L", (canvas.size, canvas.size))
    pen = ImageDraw.Draw(holes)
    side = canvas.size
    if look.pattern == "striped":
        start, gap = stream.random() * 0.1, 0.1
        for k in range(-1, 14):
            x = (start + k * gap) * side
            pen.polygon([(x, 0), (x + 0.042 * side, 0), (x - 0.06 * side, side), (x - 0.102 * side, side)], fill=255)
    else:
        shift = stream.random(2) * 0.13
        for row in range(9):
            for column in range(9):
                middle = (column + 0.5 * (row % 2)) * 0.13 + shift[0], row * 0.115 + shift[1]
                x, y = (middle[0] - 0.07) * side, (middle[1] - 0.07) * side
                radius = 0.036 * side
                pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    mask.paste(0, mask=Image.eval(holes, lambda value: 255 - value))
    canvas.picture.paste(over.picture, mask=mask)
