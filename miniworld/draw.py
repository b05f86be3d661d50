"""The renderer: one thing in one scene, drawn with Pillow at four times its size and reduced."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from miniworld import scenes, things

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from miniworld.scenes import Canvas
    from miniworld.things import Colour, Look, Paint, Point, Polygon, Shape

SUPERSAMPLING = 4
_NIGHT: Colour = (16, 22, 70)
_WHITE: Colour = (255, 255, 255)


def draw(look: Look, scene: str, stream: np.random.Generator, size: int = 64, is_mask: bool = False) -> Image.Image:
    """Draw a thing in a scene, or its mask, white on black; the stream decides position, pose and details."""
    canvas = scenes.Canvas(size * SUPERSAMPLING)
    scenes.SCENES[scene].paint_backdrop(canvas, stream)
    if is_mask:
        canvas.picture.paste((0, 0, 0), (0, 0, canvas.size, canvas.size))
    figure = things.CLASSES[look.kind]()

    # Place the thing: its feet on the ground, its hat inside the picture
    scale = scenes.uniform(stream, 0.33, 0.4)
    x = scenes.uniform(stream, 0.41, 0.59)
    y = scenes.uniform(stream, *scenes.SCENES[scene].feet)
    turn = math.radians(scenes.uniform(stream, -7, 7))
    flip = -1 if stream.random() < 0.5 else 1
    if look.hat:
        scale = min(scale, 0.37)
    centre = y - scale * (0.78 if scene == "in a bucket" else 1)
    if look.hat:
        centre = max(centre, 1.55 * scale)
    sine, cosine = math.sin(turn), math.cos(turn)

    def place(points: Sequence[Point]) -> Polygon:
        turned = [(a * flip * cosine - b * sine, a * flip * sine + b * cosine) for a, b in points]
        return [((x + scale * a) * canvas.size, (centre - scale * b) * canvas.size) for a, b in turned]

    # Choose the colours: the night darkens all of them
    coat = things.COLOURS[look.colour]
    paints = {**things.COLOURS, "coat": coat, "shade": scenes.blend(coat, things.INK, 0.3)}

    def light(colour: Colour) -> Colour:
        if is_mask:
            return _WHITE
        return scenes.blend(colour, _NIGHT, 0.2) if scene == "at night" else colour

    def colour_of(paint: Paint) -> Colour:
        return light(paints[paint] if isinstance(paint, str) else paint)

    # Add the mark and the hat
    marks: list[Shape] = []
    if look.mark:
        mark_colour, mark = look.mark
        mark_x, mark_y, radius = figure.mark
        outline = things.MARKS[mark](mark_x, mark_y, radius * 1.16)
        marks = [(things.INK, outline), (mark_colour, things.MARKS[mark](mark_x, mark_y, radius))]
    hat = things.hat(figure.hat, look.hat) if look.hat else []
    shapes = figure.shapes + marks + hat

    # Draw the outlines, then the shapes; the pattern lies on the coat and below all shapes that follow the coat
    edge = round(0.02 * canvas.size)
    for _, points in figure.shapes + hat:
        corners = place(points)
        canvas.pen.line([*corners, corners[0], corners[1]], fill=light(things.INK), width=edge, joint="curve")
    last = max(index for index, (paint, _) in enumerate(shapes) if paint == "coat")
    for index, (paint, points) in enumerate(shapes):
        canvas.pen.polygon(place(points), fill=colour_of(paint))
        if index == last and look.pattern:
            coats = [place(points) for paint, points in shapes[: last + 1] if paint == "coat"]
            _paint_pattern(canvas, look.pattern, coats, light(_pattern_colour(coat)), stream)
    if scene == "in a bucket" and not is_mask:
        scenes.paint_bucket_front(canvas, x, scale * 0.98, min(centre + scale * 0.6, 0.74))
    return canvas.picture.reduce(SUPERSAMPLING)


def _pattern_colour(coat: Colour) -> Colour:
    """Return a dark colour for a light coat, and a light one for a dark coat."""
    return scenes.blend(coat, things.INK if sum(coat) > 330 else _WHITE, 0.72)


def _paint_pattern(
    canvas: Canvas, pattern: str, coats: list[Polygon], colour: Colour, stream: np.random.Generator
) -> None:
    """Paint spots or stripes over the coat alone."""
    side = canvas.size
    layer = Image.new("RGB", (side, side), colour)
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    for points in coats:
        pen.polygon(points, fill=255)
    figures = Image.new("L", (side, side))  # the spots or stripes, beyond the coat too
    pen = ImageDraw.Draw(figures)
    if pattern == "striped":
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
    mask.paste(0, mask=Image.eval(figures, lambda value: 255 - value))
    canvas.picture.paste(layer, mask=mask)
