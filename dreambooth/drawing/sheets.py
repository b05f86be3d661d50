"""Contact sheets: many pictures in one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEXT_HEIGHT = 22  # pixels
SMALLEST = 96  # pixels of a picture's side on the sheet
_LARGEST = 256


def make_grid(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Put all pictures, which have one size, on one sheet, `columns` in a row."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet


def make_contact_sheet(
    prompts: Sequence[str], columns: Mapping[str, Sequence[Sequence[Image.Image]]], count: int
) -> Image.Image:
    """Draw a row for each prompt, under its text, with up to `count` pictures of each column.

    `columns` maps a heading, such as the base or the fine-tuned model, to its pictures for each prompt; some may have
    none.
    """
    first = next(picture for rows in columns.values() for row in rows for picture in row)
    side = max(SMALLEST, min(first.width, _LARGEST))
    gap = TEXT_HEIGHT // 2
    width = len(columns) * (count * side + 2 * gap)
    sheet = Image.new("RGB", (width, TEXT_HEIGHT + len(prompts) * (TEXT_HEIGHT + side + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(TEXT_HEIGHT * 3 // 4)
    for column, (heading, rows) in enumerate(columns.items()):
        left = column * (count * side + 2 * gap) + gap
        pen.text((left, 0), heading, "black", font)
        for row, (prompt, pictures) in enumerate(zip(prompts, rows)):
            top = TEXT_HEIGHT + row * (TEXT_HEIGHT + side + gap)
            if not column:
                pen.text((left, top), prompt, "dimgrey", font)
            for number, picture in enumerate(pictures[:count]):
                small = picture.resize((side, side), Image.Resampling.LANCZOS)
                sheet.paste(small, (left + number * side, top + TEXT_HEIGHT))
    return sheet
