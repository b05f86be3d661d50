"""A grid of drawings with labelled axes: as one picture, and as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from dreambooth.drawing import sheets, thumbnails
from dreambooth.files import atomic
from dreambooth.run.report import pages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL.ImageFont import FreeTypeFont

    from dreambooth.run.drawings.axes import Axis
    from dreambooth.run.drawings.cells import Cell

_GAP = 8  # pixels between two pictures, and beside a label
_LABEL = 230  # pixels: the most of a row's label in width
_LINES = 3  # of a column's label, and of the heading
_NARROWEST = 360  # pixels: a sheet's width, so that its heading has room
_LARGEST_SHEET = 12_000  # pixels of its longer side
_SIDES = {16: 512, 64: 384, 400: 256}  # the longer sides of a page's pictures, by how many there are
_AXES = "axes"  # in the sheet's text
_NAMES = {"lora_scale": "LoRA scale"}


def title_of(axis: Axis) -> str:
    """Return what stands before an axis's labels; a prompt needs no name."""
    return "" if axis.name == "prompt" else f"{_NAMES.get(axis.name, axis.name)} "


def sheet(
    pictures: Sequence[Sequence[Image.Image]], rows: Axis, columns: Axis, common: Mapping[str, str]
) -> Image.Image:
    """Draw all pictures in rows, with the value of each row on the left and of each column on top.

    Above them stands what they share, `common`.
    """
    row_labels = [f"{title_of(rows)}{label}" if label else "" for label in rows.labels]
    column_labels = [f"{title_of(columns)}{label}" if label else "" for label in columns.labels]
    font, (*shown, heading) = sheets.font_for([*row_labels, *column_labels, _heading(common)])
    longest = max(max(len(pictures), len(pictures[0])), 1)
    side = min(sheets.LARGEST, max(sheets.SMALLEST, max(pictures[0][0].size)), max(32, _LARGEST_SHEET // longest))
    scale = side / max(pictures[0][0].size)
    width, height = (max(1, round(each * scale)) for each in pictures[0][0].size)
    of_rows = [_wrapped(text, font, _LABEL, max(1, height // sheets.TEXT_HEIGHT)) for text in shown[: len(row_labels)]]
    of_columns = [_wrapped(text, font, width, _LINES) for text in shown[len(row_labels) :]]
    left = _GAP + max((int(font.getlength(line)) + _GAP for lines in of_rows for line in lines), default=0)
    whole_width = max(left + len(of_columns) * (width + _GAP), _NARROWEST)
    of_all = _wrapped(heading, font, whole_width - 2 * _GAP, _LINES)
    below = _GAP // 2 + (len(of_all) * sheets.TEXT_HEIGHT + _GAP if of_all else 0)  # the heading
    top = below + _GAP // 2 + max(map(len, of_columns)) * sheets.TEXT_HEIGHT
    made = Image.new("RGB", (whole_width, top + len(of_rows) * (height + _GAP)), "white")
    pen = ImageDraw.Draw(made)
    for number, line in enumerate(of_all):
        pen.text((_GAP, _GAP // 2 + number * sheets.TEXT_HEIGHT), line, "dimgrey", font)
    for column, lines in enumerate(of_columns):
        for number, line in enumerate(lines):
            pen.text((left + column * (width + _GAP), below + number * sheets.TEXT_HEIGHT), line, "black", font)
    for row, (lines, several) in enumerate(zip(of_rows, pictures)):
        y = top + row * (height + _GAP)
        for number, line in enumerate(lines):
            pen.text((_GAP, y + number * sheets.TEXT_HEIGHT), line, "black", font)
        for column, picture in enumerate(several):
            small = picture.resize((width, height), Image.Resampling.LANCZOS)
            made.paste(small, (left + column * (width + _GAP), y))
    return made


def _heading(common: Mapping[str, str]) -> str:
    """Write in a line what all pictures share; the prompt, which needs no name, is the last, since it may be long."""
    named = [f"{_NAMES.get(name, name)} {value}" for name, value in common.items() if name != "prompt"]
    return atomic.text_in_picture(" · ".join([*named, *filter(None, [common.get("prompt")])]))


def _wrapped(text: str, font: FreeTypeFont, width: int, most: int) -> list[str]:
    """Break a text into at most so many lines of a width; what does not fit is cut off."""
    rest, lines = " ".join(text.split())[:2000], list[str]()
    while rest and len(lines) < most:
        count = _fitting(rest, font, width)
        if count < len(rest):
            space = rest.rfind(" ", 1, count + 1)
            count = space if space > 0 else count
        lines.append(rest[:count].strip())
        rest = rest[count:].strip()
    if rest and lines:
        lines[-1] = f"{lines[-1][: max(1, _fitting(lines[-1] + ' …', font, width) - 2)]} …"
    return lines


def _fitting(text: str, font: FreeTypeFont, width: int) -> int:
    """Return how many letters of a text have room in a width; at least one."""
    low, high = 1, min(len(text), 400)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def page(
    cells: Sequence[Cell], pictures: Sequence[Sequence[Image.Image]], rows: Axis, columns: Axis,
    common: Mapping[str, str],
) -> str:  # fmt: skip
    """Return the page of a grid; `common` are the settings that all of its pictures share."""
    count = len(rows.values) * len(columns.values)
    side = next((side for most, side in _SIDES.items() if count <= most), min(_SIDES.values()))
    copies = [[thumbnails.of(picture, side) for picture in several] for several in pictures]
    files = {(cell.row, cell.column): cell.path.name for cell in cells}
    return pages.render(
        "grid.html",
        title="DreamBooth",
        row_title=title_of(rows),
        column_title=title_of(columns),
        rows=rows.labels,
        columns=columns.labels,
        copies=copies,
        files=files,
        common=common,
    )


def write(cells: Sequence[Cell], rows: Axis, columns: Axis, path: Path, common: Mapping[str, str]) -> list[Path]:
    """Write the sheet of all cells and its page; return their paths. The folder of the cells stands beside them."""
    count = len(columns.values)
    pictures = [
        [cell.read(max(_SIDES.values())) for cell in cells[first : first + count]]
        for first in range(0, len(cells), count)
    ]
    text = {**common, _AXES: f"{rows.name} by {columns.name}"}
    atomic.write_picture(path, sheet(pictures, rows, columns, common), text)
    atomic.write_text(path.with_suffix(".html"), page(cells, pictures, rows, columns, common))
    return [path, path.with_suffix(".html")]
