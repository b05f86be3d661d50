"""Contact sheets: where each picture lies, and how large it is."""

import numpy as np
import pytest
from PIL import Image

from dreambooth.drawing import sheets


def test_a_grid_is_filled_row_by_row_and_white_where_nothing_is_left():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sheet = sheets.make_grid([Image.new("RGB", (6, 4), colour) for colour in colours], columns=2)
    assert sheet.size == (12, 8)
    pixels = np.asarray(sheet)
    for (row, column), colour in zip([(0, 0), (0, 6), (4, 0), (4, 6)], [*colours, (255, 255, 255)]):
        assert (pixels[row : row + 4, column : column + 6] == colour).all()


def test_a_grid_of_one_column_is_a_strip():
    assert sheets.make_grid([Image.new("RGB", (6, 4))] * 3, columns=1).size == (6, 12)


@pytest.mark.parametrize("width, side", [(40, 96), (100, 100), (1000, 256)])
def test_pictures_on_the_sheet_are_neither_tiny_nor_huge(width, side):
    columns = {"subject": [[Image.new("RGB", (width, width), "red")]], "base": [[Image.new("RGB", (64, 64), "blue")]]}
    sheet = sheets.make_contact_sheet(["a dog"], columns, 1)
    gap, text = sheets.TEXT_HEIGHT // 2, sheets.TEXT_HEIGHT
    assert sheet.size == (2 * (side + 2 * gap), text + text + side + gap)
    pixels = np.asarray(sheet)
    assert (pixels == (255, 0, 0)).all(-1).sum() == (pixels == (0, 0, 255)).all(-1).sum() == side * side
