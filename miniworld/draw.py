"""The renderer: one thing in one scene, drawn with Pillow at four times the size and reduced."""

import math

from PIL import Image, ImageDraw

from miniworld.scenes import SCENES, Canvas, blend, bucket_front, uniform
from miniworld.things import CLASSES, COLOURS, INK, MARKS, hat

FINER = 4


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
