"""Which files of a folder are shared, and what can't be."""

import json

import numpy as np
import pytest
from PIL import Image
from support.finished_runs import make_run

from dreambooth.files import safetensors
from dreambooth.run.sharing import bundle
from dreambooth.system.errors import BadInput

LORA = "paddle_lora_weights.safetensors"


@pytest.fixture
def result(tmp_path, monkeypatch):
    """The folder of a LoRA with all that a run leaves beside it."""
    (tmp_path / "home/bob").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home/bob"))
    folder = tmp_path / "out"
    make_run(folder, tmp_path / "pictures", of_class=("a dog",))
    safetensors.write(folder / LORA, {"unet.a.lora_A.weight": np.zeros([1, 2], np.float32)})
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2/optimizer.safetensors").write_bytes(b"0")
    (folder / "report.html").write_text("pictures")
    (folder / "my notes.txt").write_text("mine")
    (folder / "logs").mkdir()
    return folder


def names(entries):
    return [entry.name for entry in entries]


def refused(folder, **settings):
    with pytest.raises(BadInput) as error:
        bundle.collect(folder, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_model_its_card_its_record_and_its_last_drawings_are_shared(result):
    assert names(bundle.collect(result)) == [
        *("README.md", LORA, "samples/step-4-0-0.png", "samples/step-4-0-1.png", "training_args.json")
    ]


def test_the_drawings_are_those_of_the_weights_that_were_saved(result):
    record = json.loads((result / "training_args.json").read_text())
    (result / "training_args.json").write_text(json.dumps({**record, "saved_step": 2}))
    assert [name for name in names(bundle.collect(result)) if "samples" in name] == [
        *("samples/step-2-0-0.png", "samples/step-2-0-1.png")
    ]


def test_a_drawing_keeps_its_pixels_and_loses_all_texts_but_its_own(result, tmp_path):
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    for name, value in (("prompt", "a dog"), ("model", "/home/bob/sd"), ("Comment", "by bob")):
        text.add_itxt(name, value)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(result / "samples/step-4-0-0.png", pnginfo=text)
    [entry] = [each for each in bundle.collect(result) if each.name == "samples/step-4-0-0.png"]
    entry.write(tmp_path / "to")
    with Image.open(tmp_path / "to" / entry.name) as picture:
        assert picture.info == {"prompt": "a dog"} and np.array_equal(np.asarray(picture), pixels)


def test_a_file_with_a_token_or_a_path_is_refused_by_its_name(result, tmp_path):
    (result / "README.md").write_text("my token is hf_" + "x" * 34)
    assert "README.md has a token in it" in refused(result)
    (result / "README.md").write_text(f"see {tmp_path}/home/bob/notes")
    assert "README.md has the path" in refused(result)
    (result / "README.md").unlink()
    metadata = {"made by": f"{tmp_path}/home/bob/train.py"}
    safetensors.write(result / LORA, {"a": np.zeros([1], np.float32)}, metadata)
    assert f"{LORA} has the path" in refused(result)


def test_the_settings_of_a_part_lose_the_places_in_them(result, tmp_path):
    (result / "model_index.json").write_text(json.dumps({"_class_name": "X", "unet": ["ppdiffusers", "U"]}))
    (result / "unet").mkdir()
    (result / "unet/config.json").write_text(json.dumps({"_name_or_path": "/data/models/sd/unet", "width": 4}))
    (result / "unet/.hidden").write_text("no")
    [entry] = [each for each in bundle.collect(result) if each.name == "unet/config.json"]
    assert json.loads(entry.content) == {"_name_or_path": "unet", "width": 4}
    (result / "unet/config.json").write_text("{")
    assert "unet/config.json is no JSON" in refused(result)


def test_a_part_that_lies_elsewhere_is_left_out(result):
    (result / "model_index.json").write_text(json.dumps({"_class_name": "X", "../secret": ["a", "b"]}))
    (result.parent / "secret").mkdir()
    (result.parent / "secret/config.json").write_text("{}")
    assert not [name for name in names(bundle.collect(result)) if "secret" in name]


def test_what_is_no_result_is_refused(result, tmp_path):
    assert "there is no such folder" in refused(tmp_path / "missing")
    assert "has no result of a run" in refused(tmp_path / "pictures")
    (result / LORA).unlink()
    assert "no pipeline, no LoRA and no learned word" in refused(result)
    (result / "state.json").write_text("{}")
    assert f"give the folder of its run, {tmp_path}" in refused(result)


@pytest.mark.parametrize(
    "changes",
    [{"flags": 7}, {"concepts": [{}]}, {"concepts": 1}, {"steps": "many"}, {"steps": float("inf")}, {"base_folder": 7}],
)
def test_a_record_that_somebody_edited_is_refused(result, changes):
    record = json.loads((result / "training_args.json").read_text())
    (result / "training_args.json").write_text(json.dumps({**record, **changes}))
    assert "can't be read" in refused(result)


def test_training_pictures_must_be_those_of_the_run(result, tmp_path):
    assert "not those that the run trained on" in refused(result, with_training_pictures=True)
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    assert "not where the run found them" in refused(result, with_training_pictures=True)


@pytest.mark.parametrize("value", ["\ud800", "9" * 400, "a\0b", "/", ""])
def test_settings_of_any_text_can_be_shared(result, value):
    record = json.loads((result / "training_args.json").read_text())
    record["flags"] |= {"tokenizer_name": value, "clip_model_path": value}
    (result / "training_args.json").write_text(json.dumps({**record, "base_folder": value}))
    assert all(entry.size for entry in bundle.collect(result))
