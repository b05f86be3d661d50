"""A sheet of the training pictures as the network will see them: to look at before a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from dreambooth.data import picture_files, transforms
from dreambooth.drawing import sheets
from dreambooth.files import atomic
from dreambooth.system import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.config.sections import PictureSettings
    from dreambooth.data.concepts import Concept, View
    from dreambooth.drawing.prior_pictures import Found
    from dreambooth.system.types import Array, Size

_SIDE, _GAP = 192, 8  # pixels of a picture on the sheet, and between two
_MOST = 60  # pictures of the subject, and of the class
_CLASS_COLUMNS = 4
_LETTERS = 110  # of a prompt
_FRAME = "red"
_PALE = 0.3  # of a colour's strength, where its place does not count


def write(
    path: str,
    concepts: Sequence[Concept],
    classes: Sequence[Found],
    shown: PictureSettings,
    sizes: Sequence[Size],
) -> None:
    """Write the sheet: a row for each picture, and the class pictures beside them.

    A row has the picture as it is, with frames around what is cut out, and its views. Of many pictures, the sheet has
    the first ones of each subject and class.
    """
    most = max(1, _MOST // len(concepts))
    rows = [(concept, picture) for concept in concepts for picture in concept.pictures[:most]]
    prompts = [_short(picture.caption or concept.prompt) for concept, picture in rows]
    font, texts = sheets.font_for(prompts)
    line, cell = sheets.TEXT_HEIGHT, _SIDE + _GAP
    views = [transforms.views(each.size, shown, transforms.nearest(each.size, sizes)) for _, each in rows]
    several = len(concepts) > 1
    names = [str(picture.path) if several else picture.path.name for _, picture in rows]
    labels = [f"{name}: {transforms.in_words(each[0])}" for name, each in zip(names, views)]
    width = max((1 + max(map(len, views))) * cell, int(max(map(font.getlength, [*labels, *texts]))) + _GAP)
    height = cell + 2 * line
    most_of_class = _MOST // max(1, len(classes))
    grids = [-(-len(each.pictures[:most_of_class]) // _CLASS_COLUMNS) for each in classes]
    size = (
        _GAP + width + (_CLASS_COLUMNS * cell + _GAP if any(grids) else 0),
        _GAP + max(len(rows) * height, sum(line + grid * cell for grid in grids)),
    )
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for number, ((_, picture), each, label, text) in enumerate(zip(rows, views, labels, texts)):
        top = _GAP + number * height
        pen.text((_GAP, top), label, "black", font)
        pen.text((_GAP, top + line), text, "dimgrey", font)
        image = picture_files.open_picture(picture.path)
        mask, unmasked = picture_files.open_mask(picture), shown.unmasked_weight
        in_training = [seen(image, view, transforms.to_weights(mask, view, unmasked)) for view in each]
        for column, cell_image in enumerate([framed(image, each), *in_training]):
            sheet.paste(cell_image, (_GAP + column * cell, top + 2 * line))
    left, top = 2 * _GAP + width, _GAP
    for found, grid in zip(classes, grids):
        if not grid:
            continue
        font, [heading] = sheets.font_for([f'the class, {len(found.pictures)} pictures: "{found.settings.prompt}"'])
        pen.text((left, top), heading, "black", font)
        for number, picture in enumerate(found.pictures[:most_of_class]):
            row, column = divmod(number, _CLASS_COLUMNS)
            view = transforms.views(picture.size, shown, sizes[0])[0]
            weights = transforms.to_weights(None, view, 1)
            cell_image = seen(picture_files.open_picture(picture.path), view, weights)
            sheet.paste(cell_image, (left + column * cell, top + line + row * cell))
        top += line + grid * cell
    atomic.write_picture(Path(path), sheet, {})
    for prompt in sheets.legend(prompts):
        console.print_message(f"sheet     {prompt}")
    left_out = {
        "pictures": sum(len(each.pictures) for each in concepts) - len(rows),
        "class pictures": sum(len(each.pictures[most_of_class:]) for each in classes),
    }
    without = " and ".join(f"{count} more {what}" for what, count in left_out.items() if count)
    console.print_message(f"sheet     {path}{'; without ' if without else ''}{without}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LETTERS else f"{line[:_LETTERS]} …"


def framed(image: Image.Image, views: Sequence[View]) -> Image.Image:
    """Return a picture within a square, with a frame around each part that is cut out."""
    height, width = views[0].original
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    scale = small.width / width, small.height / height
    for crop in dict.fromkeys(view.crop for view in views if view.crop):
        box = [side * scale[number % 2] for number, side in enumerate(crop)]
        ImageDraw.Draw(small).rectangle(_at_least_a_pixel(box), outline=_FRAME, width=2)
    return _in_square(small)


def _at_least_a_pixel(box: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the corners of a frame; a small part of a very long picture has one all the same."""
    left, top, right, bottom = box
    return left, top, max(left, right - 1), max(top, bottom - 1)


def seen(image: Image.Image, view: View, weights: Array) -> Image.Image:
    """Return a view of a picture, from the very numbers that the network gets, within a square.

    What counts less is paler.
    """
    numbers = transforms.to_pixels(image, view)
    paler = numbers * (_PALE + (1 - _PALE) * weights) + (1 - _PALE) * (1 - weights)
    pixels = ((paler.transpose(1, 2, 0) + 1) * 127.5).round().clip(0, 255)
    small = Image.fromarray(pixels.astype(np.uint8))
    scale = _SIDE / max(small.size)
    size = max(1, round(small.width * scale)), max(1, round(small.height * scale))
    return _in_square(small.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS))


def _in_square(image: Image.Image) -> Image.Image:
    """Put a picture into the middle of a cell of the sheet."""
    square = Image.new("RGB", (_SIDE, _SIDE), "white")
    square.paste(image, ((_SIDE - image.width) // 2, (_SIDE - image.height) // 2))
    return square
