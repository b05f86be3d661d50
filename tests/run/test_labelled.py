"""A grid with labels: as one picture, in which each stands at its place, and as a page."""

import numpy as np
import pytest
from PIL import Image
from support.finished_runs import HOSTILE

from dreambooth.drawing import sheets
from dreambooth.run.drawings import cells, labelled
from dreambooth.run.drawings.axes import Axis

SEEDS = Axis("seed", (0, 1), ("0", "1"))
COLOURS = [[(200, 0, 0), (0, 200, 0)], [(0, 0, 200), (200, 200, 0)]]
PICTURES = [[Image.new("RGB", (64, 48), colour) for colour in row] for row in COLOURS]


def prompts(*texts):
    return Axis("prompt", texts, texts)


def test_each_picture_stands_at_its_place_and_keeps_its_shape():
    sheet = np.asarray(labelled.sheet(PICTURES, prompts("a dog", "a cat"), SEEDS, {}))
    boxes = []
    for row in COLOURS:
        for colour in row:
            ys, xs = np.nonzero((sheet == colour).all(axis=2))
            boxes.append((xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1))
    assert {box[2:] for box in boxes} == {(96, 72)}  # small ones are shown larger
    (a, b, c, d) = boxes
    assert a[0] == c[0] < b[0] == d[0] and a[1] == b[1] < c[1] == d[1]
    assert (sheet[: a[1], a[0] :] < 100).any() and (sheet[:, : a[0]] < 100).any()  # labels above, and on the left


@pytest.mark.parametrize("prompt", HOSTILE, ids=range(len(HOSTILE)))
def test_labels_of_any_text_leave_the_sheet_a_size(prompt):
    sheet = labelled.sheet(PICTURES, prompts(prompt, "b"), SEEDS, {})
    assert sheet.width < 700 and sheet.height < 400
    sheet = labelled.sheet(PICTURES, SEEDS, prompts(prompt, "b"), {"prompt": prompt, "checkpoint": prompt})
    assert sheet.width < 700 and sheet.height < 400


def test_above_all_stands_what_the_pictures_share():
    rows = prompts("a dog", "a cat")
    without = np.asarray(labelled.sheet(PICTURES, rows, SEEDS, {}))
    sheet = np.asarray(labelled.sheet(PICTURES, rows, SEEDS, {"steps": "20", "lora_scale": "0.5"}))
    more = sheet.shape[0] - without.shape[0]
    assert more > 0 and sheet.shape[1] == without.shape[1] and (sheet[:more] < 200).any()
    assert (sheet[more + 8 :] == without[8:]).all()  # all else is moved down
    long = labelled.sheet(PICTURES, rows, SEEDS, {"prompt": "word " * 2000})
    assert long.width == sheet.shape[1] and long.height < sheet.shape[0] + 80


def test_a_label_is_broken_at_words_and_cut_with_a_sign():
    font, _ = sheets.font_for([])
    lines = labelled._wrapped("one two three four five six seven eight nine ten", font, 90, 3)
    assert len(lines) == 3 and lines[0] == "one two" and lines[-1].endswith("…")
    assert all(font.getlength(line) <= 90 for line in lines)
    assert labelled._wrapped("", font, 90, 3) == []
    assert labelled._wrapped("w" * 100, font, 90, 2)[-1].endswith("…")


def test_a_large_grid_is_no_larger_than_a_sheet_may_be():
    many = [[Image.new("RGB", (512, 512))] * 100] * 2
    axis = Axis("seed", tuple(range(100)), tuple(map(str, range(100))))
    sheet = labelled.sheet(many, SEEDS, axis, {})
    assert sheet.width <= 14_000


def test_the_page_has_all_pictures_with_their_values(tmp_path):
    rows = prompts('<script>alert("1")</script>', "a cat")
    laid = cells.lay_out(rows, SEEDS, {"checkpoint": None, "lora_scale": None, "guidance": 1, "steps": 2,
                                       "scheduler": None}, tmp_path, {})  # fmt: skip
    for cell, picture in zip(laid, [*PICTURES[0], *PICTURES[1]]):
        cell.save(picture, {})
    written = labelled.write(laid, rows, SEEDS, tmp_path / "grid.png", {"steps": "2"})
    assert written == [tmp_path / "grid.png", tmp_path / "grid.html"]
    page = written[1].read_text(encoding="utf-8")
    assert page.count("<img ") == 4 and page.count("<script>") == 1 and "Grid of 2 x 2 pictures" in page
    assert Image.open(written[0]).info["axes"] == "prompt by seed"


def test_what_all_share_stands_above_the_sheet_and_leaves_it_a_size():
    plain = labelled.sheet(PICTURES, prompts("a", "b"), SEEDS, {})
    common = {"steps": "20", "prompt": "w" * 10_000, "lora_scale": "0.5", "checkpoint": "\udce9"}
    headed = labelled.sheet(PICTURES, prompts("a", "b"), SEEDS, common)
    assert plain.height < headed.height < plain.height + 100 and headed.width == plain.width
    assert labelled._heading(common).startswith("steps 20 · LoRA scale 0.5 · checkpoint ? · www")
    assert labelled._heading({}) == ""
