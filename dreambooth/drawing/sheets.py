"""Contact sheets: many pictures in one."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEXT_HEIGHT = 22  # pixels
SMALLEST = 96  # pixels of a picture's side on the sheet
LARGEST = 256  # and at most
_HAN = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
# files of fonts with Chinese characters, which Pillow's own font lacks, on Linux, macOS and Windows
_CHINESE_FONTS = (
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf", "SourceHanSansSC-Regular.otf"),
    *("wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "NotoSerifCJK-Regular.ttc", "uming.ttc"),
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Light.ttc", "msyh.ttc", "simhei.ttf", "simsun.ttc"),
)


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
    side = max(SMALLEST, min(first.width, LARGEST))
    gap = TEXT_HEIGHT // 2
    font, shown = font_for(prompts)
    widths = [int(max(count * side, font.getlength(heading))) + 2 * gap for heading in columns]
    width = max(sum(widths), int(max(map(font.getlength, shown))) + 2 * gap)
    sheet = Image.new("RGB", (width, TEXT_HEIGHT + len(prompts) * (TEXT_HEIGHT + side + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (heading, rows) in enumerate(columns.items()):
        left = sum(widths[:column]) + gap
        pen.text((left, 0), heading, "black", font)
        for row, (prompt, pictures) in enumerate(zip(shown, rows)):
            top = TEXT_HEIGHT + row * (TEXT_HEIGHT + side + gap)
            if not column:
                pen.text((left, top), prompt, "dimgrey", font)
            for number, picture in enumerate(pictures[:count]):
                small = picture.resize((side, side), Image.Resampling.LANCZOS)
                sheet.paste(small, (left + number * side, top + TEXT_HEIGHT))
    return sheet


def legend(prompts: Sequence[str]) -> list[str]:
    """List the prompts that a contact sheet has by number, since no font on this machine has their characters."""
    return [f"{short}: {prompt}" for prompt, short in zip(prompts, font_for(prompts)[1]) if prompt != short]


def font_for(prompts: Sequence[str]) -> tuple[ImageFont.FreeTypeFont, list[str]]:
    """Return a font, and the prompts as it can show them: by their number, where no font here has their characters."""
    size = TEXT_HEIGHT * 3 // 4
    if any(map(_HAN.search, prompts)):
        for name in _CHINESE_FONTS:
            with contextlib.suppress(OSError):
                return ImageFont.truetype(name, size), list(prompts)
    own = ImageFont.load_default(size)
    assert isinstance(own, ImageFont.FreeTypeFont)  # which it is where a size is given
    return own, [f"prompt {row}" if _HAN.search(prompt) else prompt for row, prompt in enumerate(prompts, 1)]
