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

    from dreambooth.config.sections import ConceptSettings, PictureSettings
    from dreambooth.data.concepts import Picture, View
    from dreambooth.system.types import Array

_SIDE, _GAP = 192, 8  # pixels of a picture on the sheet, and between two
_MOST = 60  # pictures of the subject, and of the class
_CLASS_COLUMNS = 4
_LETTERS = 110  # of a prompt
_FRAME = "red"
_PALE = 0.3  # of a colour's strength, where its place does not count


def write(
    path: str,
    pictures: Sequence[Picture],
    of_class: Sequence[Picture],
    concepts: ConceptSettings,
    shown: PictureSettings,
) -> None:
    """Write the sheet: a row for each picture, and the class pictures beside them.

    A row has the picture as it is, with a frame around what is cut out, and its views. Of many pictures, the sheet has
    the first ones.
    """
    rows, classes = pictures[:_MOST], of_class[:_MOST]
    prompts = [_short(picture.caption or concepts.instance_prompt) for picture in rows]
    font, texts = sheets.font_for(prompts)
    line, cell = sheets.TEXT_HEIGHT, _SIDE + _GAP
    views = [transforms.views(picture.size, shown) for picture in rows]
    labels = [f"{picture.path.name}: {_in_words(each[0])}" for picture, each in zip(rows, views)]
    width = max((1 + max(map(len, views))) * cell, int(max(map(font.getlength, [*labels, *texts]))) + _GAP)
    height = cell + 2 * line
    grid = -(-len(classes) // _CLASS_COLUMNS)
    size = (
        _GAP + width + (_CLASS_COLUMNS * cell + _GAP if classes else 0),
        _GAP + max(len(rows) * height, line + grid * cell),
    )
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for number, (picture, each, label, text) in enumerate(zip(rows, views, labels, texts)):
        top = _GAP + number * height
        pen.text((_GAP, top), label, "black", font)
        pen.text((_GAP, top + line), text, "dimgrey", font)
        image = picture_files.open_picture(picture.path)
        mask, unmasked = picture_files.open_mask(picture), shown.unmasked_weight
        seen = [_seen(image, view, transforms.to_weights(mask, view, unmasked)) for view in each]
        for column, cell_image in enumerate([_framed(image, each[0]), *seen]):
            sheet.paste(cell_image, (_GAP + column * cell, top + 2 * line))
    if classes:
        left = 2 * _GAP + width
        font, [heading] = sheets.font_for([f'the class, {len(of_class)} pictures: "{concepts.class_prompt}"'])
        pen.text((left, _GAP), heading, "black", font)
        for number, picture in enumerate(classes):
            row, column = divmod(number, _CLASS_COLUMNS)
            view = transforms.views(picture.size, shown)[0]
            weights = transforms.to_weights(None, view, 1)
            cell_image = _seen(picture_files.open_picture(picture.path), view, weights)
            sheet.paste(cell_image, (left + column * cell, _GAP + line + row * cell))
    atomic.write_picture(Path(path), sheet, {})
    for prompt in sheets.legend(prompts):
        console.print_message(f"sheet     {prompt}")
    without = [f"{count} more {what}" for what, count in _left_out(pictures, of_class) if count > 0]
    console.print_message(f"sheet     {path}{'; without ' if without else ''}{' and '.join(without)}")


def _left_out(pictures: Sequence[Picture], of_class: Sequence[Picture]) -> list[tuple[str, int]]:
    return [("pictures", len(pictures) - _MOST), ("class pictures", len(of_class) - _MOST)]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LETTERS else f"{line[:_LETTERS]} …"


def _in_words(view: View) -> str:
    """Describe how a picture is fitted to its size."""
    (before_height, before_width), (height, width) = view.original, view.size
    fitted = []
    if cut := transforms.share_cut_off(view):
        fitted.append(f"{cut:.0%} cut off")
    if (squeeze := transforms.squeeze(view)) > 1.005:
        fitted.append(f"squeezed by {squeeze:.2f}")
    return f"{before_width} x {before_height} to {width} x {height}" + "".join(f", {each}" for each in fitted)


def _framed(image: Image.Image, view: View) -> Image.Image:
    """Return a picture within a square, with a frame around the part that is cut out."""
    height, width = view.original
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    if view.crop:
        scale = small.width / width, small.height / height
        box = [side * scale[number % 2] for number, side in enumerate(view.crop)]
        ImageDraw.Draw(small).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=_FRAME, width=2)
    return _in_square(small)


def _seen(image: Image.Image, view: View, weights: Array) -> Image.Image:
    """Return a view of a picture, from the very numbers that the network gets, within a square.

    What counts less is paler.
    """
    numbers = transforms.to_pixels(image, view)
    paler = numbers * (_PALE + (1 - _PALE) * weights) + (1 - _PALE) * (1 - weights)
    pixels = ((paler.transpose(1, 2, 0) + 1) * 127.5).round().clip(0, 255)
    seen = Image.fromarray(pixels.astype(np.uint8))
    scale = _SIDE / max(seen.size)
    size = max(1, round(seen.width * scale)), max(1, round(seen.height * scale))
    return _in_square(seen.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS))


def _in_square(image: Image.Image) -> Image.Image:
    """Put a picture into the middle of a cell of the sheet."""
    square = Image.new("RGB", (_SIDE, _SIDE), "white")
    square.paste(image, ((_SIDE - image.width) // 2, (_SIDE - image.height) // 2))
    return square
