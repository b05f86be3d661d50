"""The pictures of a grid as files: whose they are, and when they are drawn anew."""

import json
import os

from PIL import Image
from support.finished_runs import make_run

from dreambooth.run.drawings import cells
from dreambooth.run.drawings.axes import Axis

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


def test_files_that_change_are_told_and_what_else_lies_in_the_folder_is_not(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "checkpoint-4").mkdir()
    path = tmp_path / "unet/model.safetensors"
    path.write_bytes(b"1")
    before = cells.summary_of_files(str(tmp_path))
    (tmp_path / "checkpoint-4/model.safetensors").write_bytes(b"1")
    (tmp_path / "README.md").write_text("a card")
    assert cells.summary_of_files(str(tmp_path)) == before
    (tmp_path / "unet/config.json").write_text("{}")
    changed = cells.summary_of_files(str(tmp_path))
    os.utime(path, ns=(1, 1))
    assert len({before, changed, cells.summary_of_files(str(tmp_path))}) == 3
    assert cells.summary_of_files("hub/name") == "hub/name" and cells.summary_of_files(None) == ""
    assert cells.summary_of_files(str(path)) not in ("", str(path))


def test_a_lora_is_another_one_on_another_base(tmp_path):
    base = tmp_path / "base"
    (base / "unet").mkdir(parents=True)
    (base / "unet/model.safetensors").write_bytes(b"1")
    record = make_run(tmp_path / "out", tmp_path / "pictures")
    (tmp_path / "out/paddle_lora_weights.safetensors").write_bytes(b"1")
    (tmp_path / "out/training_args.json").write_text(json.dumps({**record, "base_folder": str(base)}))
    before = cells.summary_of_model(str(tmp_path / "out"))
    os.utime(base / "unet/model.safetensors", ns=(1, 1))
    assert cells.summary_of_model(str(tmp_path / "out")) != before
