"""Contact sheets: where each picture lies, and how large it is."""

import re

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


def make(prompts, heading="base", width=64):
    pictures = [[Image.new("RGB", (width, width), "red")] for _ in prompts]
    return sheets.make_contact_sheet(prompts, {heading: pictures, "fine-tuned, 250 updates": pictures}, 1)


def test_no_text_is_cut_on_a_narrow_sheet():
    wide = make(["a photo of sks dog in a bucket, at night, in the snow, far away from everything"])
    for sheet in (wide, make(["a"])):
        pixels = np.asarray(sheet)
        assert (pixels[:, -sheets.TEXT_HEIGHT // 4 :] == 255).all()  # the text ends before the edge
        assert (pixels[: sheets.TEXT_HEIGHT] < 128).any()
    assert wide.width > make(["a"]).width > 2 * (sheets.SMALLEST + sheets.TEXT_HEIGHT)


def test_chinese_without_a_font_is_a_number_with_a_legend(monkeypatch):
    monkeypatch.setattr(sheets, "_CHINESE_FONTS", ("no such font.ttc",))
    prompts = ["a dog", "一张vdf狗的照片", "狗 (the class)"]
    assert sheets.legend(prompts) == ["prompt 2: 一张vdf狗的照片", "prompt 3: 狗 (the class)"]
    assert np.array_equal(np.asarray(make(prompts)), np.asarray(make(["a dog", "prompt 2", "prompt 3"])))
    assert sheets.legend(["a dog"]) == []


def test_chinese_is_written_where_a_font_has_it(monkeypatch):
    font, pillows, asked = sheets.ImageFont.load_default(10), sheets.ImageFont.truetype, []

    def truetype(name, *more, **settings):
        if not isinstance(name, str):  # Pillow's own font
            return pillows(name, *more, **settings)
        asked.append(name)
        return font

    monkeypatch.setattr(sheets.ImageFont, "truetype", truetype)
    assert sheets.legend(["一张狗的照片"]) == [] and re.search("CJK", asked[0])
    make(["一张狗的照片"])
    asked.clear()
    make(["a dog"])
    assert asked == []
