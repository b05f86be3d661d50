"""The sheet of the data: every picture as the network gets it, with its prompt, and the class pictures beside."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from support.commands import train
from support.pictures import draw_pictures

from dreambooth.config.sections import ConceptSettings, PictureSettings
from dreambooth.data import picture_files
from dreambooth.drawing import data_sheets, sheets
from dreambooth.system.errors import BadInput

SIDE, GAP, LINE = data_sheets._SIDE, data_sheets._GAP, sheets.TEXT_HEIGHT
CONCEPTS = ConceptSettings("pictures", "a photo of sks dog", class_prompt="a dog")


def halves(path, size, left=(255, 0, 0), right=(0, 0, 255)):
    """A picture with a red and a blue half."""
    image = Image.new("RGB", size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    path.parent.mkdir(exist_ok=True)
    image.save(path)


def found(folder):
    return picture_files.find_pictures(folder, "--x")[0]


def cell(sheet, row, column):
    """The middle of a cell of a row: its colour left and right of the middle."""
    left, top = GAP + column * (SIDE + GAP), GAP + row * (SIDE + GAP + 2 * LINE) + 2 * LINE
    pixels = np.asarray(sheet)[top : top + SIDE, left : left + SIDE]
    return [tuple(pixels[SIDE // 2, SIDE // 2 + step].tolist()) for step in (-SIDE // 8, SIDE // 8)]


def test_a_row_has_the_picture_and_the_views_that_the_network_gets(tmp_path, capsys):
    halves(tmp_path / "dog/1.png", (80, 40))
    draw_pictures(tmp_path / "classes", 3)
    shown = PictureSettings(resolution=32, center_crop=True, random_flip=True)
    data_sheets.write(str(tmp_path / "a.png"), found(tmp_path / "dog"), found(tmp_path / "classes"), CONCEPTS, shown)
    with Image.open(tmp_path / "a.png") as file:
        sheet = file.convert("RGB")
    red, blue = (255, 0, 0), (0, 0, 255)
    assert cell(sheet, 0, 1) == [red, blue] and cell(sheet, 0, 2) == [blue, red]
    assert sheet.width > 3 * (SIDE + GAP) + 4 * SIDE  # the class is beside
    assert capsys.readouterr().out == f"sheet     {tmp_path}/a.png\n"


def test_the_words_tell_what_is_cut_off_or_squeezed(tmp_path):
    halves(tmp_path / "dog/1.png", (80, 40))
    [picture] = found(tmp_path / "dog")
    for crop, said in ((True, "80 x 40 to 32 x 32, 50% cut off"), (False, "80 x 40 to 32 x 32, squeezed by 2.00")):
        [view] = data_sheets.transforms.views(picture.size, PictureSettings(resolution=32, center_crop=crop))
        assert data_sheets._in_words(view) == said
    [view] = data_sheets.transforms.views((64, 64), PictureSettings(resolution=32, center_crop=True))
    assert data_sheets._in_words(view) == "64 x 64 to 32 x 32"


def test_many_pictures_make_a_sheet_of_the_first_ones_and_odd_prompts_do_no_harm(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data_sheets, "_MOST", 2)
    pictures = found(draw_pictures(tmp_path / "dog", 5))
    texts = ["a\nb\tc", "x" * 5000, "一只狗", "", "ok"]
    pictures = [dataclasses.replace(each, caption=text) for each, text in zip(pictures, texts)]
    data_sheets.write(str(tmp_path / "a.png"), pictures, pictures[:3], CONCEPTS, PictureSettings(resolution=32))
    assert capsys.readouterr().out.endswith("; without 3 more pictures and 1 more class pictures\n")
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.height < 3 * (SIDE + GAP + 2 * LINE) and sheet.width < 2000


def test_a_dry_run_writes_it_where_it_is_asked_to(flags, tmp_path, class_pictures, capsys):
    path = tmp_path / "sheet.png"
    prior = dict(with_prior_preservation=True, class_data_dir=class_pictures, class_prompt="a dog", num_class_images=4)
    train(flags(dry_run=True, sheet=path, **prior))
    assert path.is_file() and f"sheet     {path}" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes, said", [(dict(sheet="a.png"), "needs --dry_run"), (dict(sheet="a.jpg"), ".png")])
def test_a_sheet_without_its_place_is_refused(flags, changes, said):
    with pytest.raises(BadInput, match=f"--sheet.*{said}"):
        train(flags(**changes))
