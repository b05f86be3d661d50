"""The sheet of the data: every picture as the network gets it, with its prompt, and the class pictures beside."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from support.commands import train
from support.pictures import draw_pictures

from dreambooth.config.concept_sections import ClassSettings
from dreambooth.config.sections import PictureSettings
from dreambooth.data import picture_files
from dreambooth.data.concepts import Concept
from dreambooth.drawing import data_sheets, sheets
from dreambooth.drawing.prior_pictures import Found
from dreambooth.system.errors import BadInput

SIDE, GAP, LINE = data_sheets._SIDE, data_sheets._GAP, sheets.TEXT_HEIGHT


def halves(path, size, left=(255, 0, 0), right=(0, 0, 255)):
    """A picture with a red and a blue half."""
    image = Image.new("RGB", size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    path.parent.mkdir(exist_ok=True)
    image.save(path)


def found(folder):
    return picture_files.find_pictures(folder, "--x")[0]


def subject(pictures, prompt="a photo of sks dog"):
    return Concept(prompt, tuple(pictures))


def of_class(pictures, prompt="a dog"):
    return Found(ClassSettings(prompt, "class", len(pictures)), tuple(pictures), [])


def cell(sheet, row, column):
    """The middle of a cell of a row: its colour left and right of the middle."""
    left, top = GAP + column * (SIDE + GAP), GAP + row * (SIDE + GAP + 2 * LINE) + 2 * LINE
    pixels = np.asarray(sheet)[top : top + SIDE, left : left + SIDE]
    return [tuple(pixels[SIDE // 2, SIDE // 2 + step].tolist()) for step in (-SIDE // 8, SIDE // 8)]


def test_a_row_has_the_picture_and_the_views_that_the_network_gets(tmp_path, capsys):
    halves(tmp_path / "dog/1.png", (80, 40))
    draw_pictures(tmp_path / "classes", 3)
    shown = PictureSettings(resolution=32, center_crop=True, random_flip=True)
    concepts, classes = [subject(found(tmp_path / "dog"))], [of_class(found(tmp_path / "classes"))]
    data_sheets.write(str(tmp_path / "a.png"), concepts, classes, shown, [shown.size])
    with Image.open(tmp_path / "a.png") as file:
        sheet = file.convert("RGB")
    red, blue = (255, 0, 0), (0, 0, 255)
    assert cell(sheet, 0, 1) == [red, blue] and cell(sheet, 0, 2) == [blue, red]
    assert sheet.width > 3 * (SIDE + GAP) + 4 * SIDE  # the class is beside
    assert capsys.readouterr().out == f"sheet     {tmp_path}/a.png\n"


def test_each_picture_has_its_bucket_and_its_crops_and_each_subject_and_class_its_prompt(tmp_path, capsys):
    halves(tmp_path / "dog/1.png", (200, 40))
    halves(tmp_path / "cat/1.png", (40, 80))
    shown = PictureSettings(resolution=32, resize_mode="buckets", random_crop=True)
    concepts = [subject(found(tmp_path / "dog")), subject(found(tmp_path / "cat"), "a zwx cat")]
    classes = [of_class(found(tmp_path / "dog")), of_class(found(tmp_path / "cat"), "a cat")]
    data_sheets.write(str(tmp_path / "a.png"), concepts, classes, shown, [(32, 32), (24, 40)])
    with Image.open(tmp_path / "a.png") as file:
        sheet = file.convert("RGB")
    red, blue = (255, 0, 0), (0, 0, 255)
    # from left to right in the first, and from top to bottom in the other, which the bucket cuts
    crops = [cell(sheet, 0, column) for column in range(1, 6)]
    assert crops[0] == [red, red] and crops[2] == [red, blue] and crops[4] == [blue, blue]
    assert [cell(sheet, 1, column) for column in range(1, 6)] == [[red, blue]] * 5
    assert sheet.height > 2 * (SIDE + GAP + 2 * LINE)


def test_many_pictures_make_a_sheet_of_the_first_ones_and_odd_prompts_do_no_harm(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data_sheets, "_MOST", 2)
    pictures = found(draw_pictures(tmp_path / "dog", 5))
    texts = ["a\nb\tc", "x" * 5000, "一只狗", "", "ok"]
    pictures = [dataclasses.replace(each, caption=text) for each, text in zip(pictures, texts)]
    data_sheets.write(
        str(tmp_path / "a.png"), [subject(pictures)], [of_class(pictures[:3])], PictureSettings(), [(32, 32)]
    )
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


def test_very_long_pictures_have_their_place(tmp_path):
    for size in ((2000, 1), (1, 2000)):
        halves(tmp_path / f"dog/{size[0]}.png", size)
    shown = PictureSettings(resolution=32, resize_mode="buckets", random_crop=True)
    data_sheets.write(str(tmp_path / "a.png"), [subject(found(tmp_path / "dog"))], [], shown, [(32, 32), (24, 40)])
    assert (tmp_path / "a.png").is_file()
