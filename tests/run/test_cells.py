"""The pictures of a grid as files: whose they are, and when they are drawn anew."""

import json
import os
import weakref

import pytest
from PIL import Image

from dreambooth.files import records
from dreambooth.run.drawings import cells
from dreambooth.run.drawings.axes import Axis
from dreambooth.system import console

COMMON = {
    **{"prompt": "a dog", "seed": 0, "checkpoint": "hub/name", "lora_scale": None},
    **{"guidance": 7.5, "steps": 50, "scheduler": None},
}


def laid_out(folder, rows, columns, common=COMMON, **fixed):
    return cells.lay_out(rows, columns, common, folder, fixed)


PROMPTS, SEEDS = Axis("prompt", ("a dog", "b/../c"), ("a", "b")), Axis("seed", (0, 1, 2), ("0", "1", "2"))


def test_every_place_has_its_values_and_its_file(tmp_path):
    found = laid_out(tmp_path, PROMPTS, SEEDS)
    assert [(cell.row, cell.column) for cell in found] == [(row, column) for row in (0, 1) for column in (0, 1, 2)]
    assert [(cell.values["prompt"], cell.values["seed"]) for cell in found[2:4]] == [("a dog", 2), ("b/../c", 0)]
    assert len({cell.path for cell in found}) == 6 and {cell.path.parent for cell in found} == {tmp_path}


def test_a_cell_is_there_once_it_is_saved_and_until_something_changes(tmp_path):
    [first, *_] = laid_out(tmp_path, PROMPTS, SEEDS)
    assert not first.is_there()
    first.save(Image.new("RGB", (8, 8), "red"), {"prompt": "a dog"})
    assert first.is_there() and first.read(512).getpixel((0, 0)) == (255, 0, 0)
    assert first.read(512).size == (8, 8) and first.read(4).size == (4, 4)
    assert laid_out(tmp_path, PROMPTS, SEEDS)[0].is_there()
    assert not laid_out(tmp_path, PROMPTS, SEEDS, negative_prompt="blurry")[0].is_there()
    assert not laid_out(tmp_path, PROMPTS, SEEDS, {**COMMON, "steps": 20})[0].is_there()


def test_a_cell_of_another_grid_is_taken_over(tmp_path):
    laid_out(tmp_path, PROMPTS, SEEDS)[1].save(Image.new("RGB", (8, 8)), {})
    other = laid_out(tmp_path, Axis("prompt", ("a dog",), ("",)), Axis("seed", (5, 1), ("5", "1")))
    assert [cell.is_there() for cell in other] == [False, True]


def test_a_damaged_cell_is_drawn_anew(tmp_path):
    [cell, *_] = laid_out(tmp_path, PROMPTS, SEEDS)
    cell.save(Image.effect_noise((64, 64), 90), {})
    data = cell.path.read_bytes()
    cell.path.write_bytes(data[: len(data) // 2])
    assert not cell.is_there()
    cell.path.write_bytes(b"")
    assert not cell.is_there()


def test_models_are_loaded_one_after_the_other_and_prompts_drawn_together(tmp_path):
    checkpoints = Axis("checkpoint", ("one", "two"), ("1", "2"))
    found = list(cells.by_model(laid_out(tmp_path, PROMPTS, checkpoints)))
    assert [first.values["checkpoint"] for first, _ in found] == ["one", "two"]
    assert [[len(group) for group in groups] for _, groups in found] == [[2], [2]]
    found = list(cells.by_model(laid_out(tmp_path, PROMPTS, SEEDS)))
    assert [[len(group) for group in groups] for _, groups in found] == [[2, 2, 2]]


def test_models_are_freed_before_the_next_and_the_first_is_loaded_before_the_bar(tmp_path, monkeypatch):
    class Model:
        pass

    laid = laid_out(tmp_path, Axis("checkpoint", ("one", "two", "three"), ("1", "2", "3")), SEEDS)
    alive, bars = [], []
    genuine = console.progress_bar
    monkeypatch.setattr(console, "progress_bar", lambda **given: bars.append(len(alive)) or genuine(**given))

    def load(cell):
        assert all(each() is None for each in alive)
        made = Model()
        alive.append(weakref.ref(made))
        return made

    def draw(model, several):
        for _ in several:
            yield Image.new("RGB", (4, 4)), {"model": id(model)}

    cells.draw_missing(laid, load, draw)
    assert len(alive) == 3 and bars == [1] and all(cell.is_there() for cell in laid)
    cells.draw_missing(laid, lambda cell: pytest.fail("it loads"), draw)
    assert bars == [1]  # there is no bar over nothing


@pytest.fixture
def model(tmp_path):
    """The files of a model, of which only their names and sizes count here."""
    for name in (
        "unet/model.safetensors",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.txt",
    ):
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["unet/model.safetensors", "scheduler/scheduler_config.json", "tokenizer/vocab.txt"])
def test_a_file_of_a_model_that_changes_is_told(model, name):
    before = cells.summary_of_model(str(model))
    os.utime(model / name, ns=(1, 1))
    assert cells.summary_of_model(str(model)) != before
    (model / name).unlink()
    assert cells.summary_of_model(str(model)) != before


def test_what_is_no_part_of_a_model_does_not_count(model):
    before = cells.summary_of_model(str(model))
    for name in ("checkpoint-4/unet/model.safetensors", "samples/1.png", "README.md"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("1")
    assert cells.summary_of_model(str(model)) == before


def test_the_base_of_a_lora_counts_where_it_is_drawn_with(model, tmp_path):
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "paddle_lora_weights.safetensors").write_text("1")
    record = {"base_model": str(model), "flags": {"revision": None, "tokenizer_name": None}}
    (folder / records.RESULT).write_text(json.dumps(record))
    whole, own = cells.summary_of_model(str(folder)), cells.summary_of_files(str(folder))
    os.utime(model / "unet/model.safetensors", ns=(1, 1))
    assert cells.summary_of_model(str(folder)) != whole
    assert cells.summary_of_files(str(folder)) == own  # which is put into another model by --lora
    os.utime(folder / "paddle_lora_weights.safetensors", ns=(1, 1))
    assert cells.summary_of_files(str(folder)) != own


def test_a_file_a_name_on_the_hub_and_nothing_are_told_apart(model):
    assert cells.summary_of_model("hub/name") == "hub/name" and cells.summary_of_files(None) == ""
    assert cells.summary_of_files(str(model / "unet/model.safetensors")) not in ("", str(model))


def test_a_folder_whose_name_is_no_utf_8_has_its_cells(tmp_path):
    [cell, *_] = laid_out(tmp_path, PROMPTS, SEEDS, {**COMMON, "checkpoint": "run-\udcff"})
    cell.save(Image.new("RGB", (4, 4)), {"model": "run-\udcff"})
    assert cell.is_there() and Image.open(cell.path).info["model"] == "run-?"
