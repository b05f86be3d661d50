"""infer.py, export and metrics with the folder of a checkpoint in place of a model."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from support.commands import ROOT, train
from support.families import load_pipeline
from support.weights import assert_same

import infer
from dreambooth import export
from dreambooth.files import records
from dreambooth.models import loading
from dreambooth.system.errors import BadInput

KINDS = {
    "unet": {},
    "text_encoder": {"train_text_encoder": True},
    "average": {"ema_decay": 0.5, "train_text_encoder": True},
    "lora": {"lora_rank": 2, "lora_alpha": 5, "learning_rate": 0.05, "train_text_encoder": True},
    "average_of_lora": {"lora_rank": 2, "ema_decay": 0.5, "learning_rate": 0.05},
}


def draw(model, folder, *more):
    path = folder / "drawn.png"
    line = ["--model_path", model, "--prompt", "a sks dog", "--num_inference_steps", 3, "--output", path, *more]
    infer.main([str(each) for each in line])
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture(params=KINDS)
def result(request, flags, tmp_path):
    common = dict(max_train_steps=3, save_steps=1, learning_rate=1e-3, no_last_checkpoint=None)
    train(flags(**{**common, **KINDS[request.param]}))
    return tmp_path / "out"


def test_the_last_checkpoint_draws_what_the_result_draws_and_an_earlier_one_something_else(result, twin, tmp_path):
    at_end = draw(result, tmp_path)
    base = draw(twin, tmp_path)
    last = draw(result / "checkpoint-3", tmp_path)
    assert abs(last - at_end).max() <= 1  # the scale of a LoRA is in its result, and beside the weights of a checkpoint
    earlier = draw(result / "checkpoint-1", tmp_path)
    assert (earlier != at_end).any() and (earlier != base).any() and (at_end != base).any()


def test_a_checkpoint_is_exported_as_a_pipeline(flags, twin, tmp_path):
    train(flags(max_train_steps=2, save_steps=1, learning_rate=1e-3))
    checkpoint = tmp_path / "out/checkpoint-2"
    new = tmp_path / "new"
    export.main(["--model_path", str(checkpoint), "--format", "pdparams", "--output", str(new)])
    assert_same(tmp_path / "out/unet", new / "unet")
    assert_same(twin / "vae", new / "vae")
    assert load_pipeline(new)
    with pytest.raises(BadInput, match="no LoRA, .*; this checkpoint can be drawn with as --model_path of infer.py"):
        write_lora(checkpoint, tmp_path / "a.safetensors")


def write_lora(model, path):
    export.main(["--model_path", str(model), "--format", "lora_web_ui", "--output", str(path)])
    return load_file(path)


def test_the_lora_of_a_checkpoint_is_exported_and_added_to_a_model(flags, twin, tmp_path):
    train(flags(lora_rank=2, lora_alpha=3, ema_decay=0.5, max_train_steps=2, save_steps=1, learning_rate=0.05))
    last = tmp_path / "out/checkpoint-2"
    one, other = (write_lora(each, tmp_path / f"{n}.safetensors") for n, each in enumerate((tmp_path / "out", last)))
    assert one.keys() == other.keys() and all(np.allclose(one[name], other[name], atol=1e-7) for name in one)
    added = draw(twin, tmp_path, "--lora", last)
    assert abs(added - draw(last, tmp_path)).max() <= 1 and (added != draw(twin, tmp_path)).any()


def test_the_base_is_found_from_another_folder_and_a_change_of_it_named(flags, twin, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    shutil.copytree(twin, tmp_path / "here/model")
    monkeypatch.chdir(tmp_path / "here")
    common = dict(pretrained_model_name_or_path="model", max_train_steps=1, save_steps=1, learning_rate=0.05)
    train(flags(**common, lora_rank=2))
    at_home = draw(tmp_path / "out", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for model in (tmp_path / "out", tmp_path / "out/checkpoint-1"):
        assert abs(draw(model, tmp_path) - at_home).max() <= 1
    assert "other weights" not in capsys.readouterr().err
    [weights] = (tmp_path / "here/model/unet").glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-4:] = np.float32(0.25).tobytes()
    weights.write_bytes(data)
    for model in (tmp_path / "out", tmp_path / "out/checkpoint-1"):
        draw(model, tmp_path)
        assert "has other weights than it had for this" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "here")
    with pytest.raises(BadInput, match="it is a LoRA, and its base model can't be used .*--model_path model"):
        draw(tmp_path / "out", tmp_path)


def test_the_scale_is_for_the_lora_of_a_checkpoint_alone(flags, twin, tmp_path):
    train(flags(lora_rank=2, max_train_steps=1, save_steps=1, learning_rate=0.05))
    base, checkpoint = draw(twin, tmp_path), tmp_path / "out/checkpoint-1"
    assert (draw(checkpoint, tmp_path, "--lora_scale", 0) == base).all()
    assert (draw(checkpoint, tmp_path) != base).any()
    shutil.rmtree(tmp_path / "out")
    train(flags(max_train_steps=1, save_steps=1))
    with pytest.raises(BadInput, match="--lora_scale needs --lora, or a LoRA as --model_path"):
        draw(checkpoint, tmp_path, "--lora_scale", 0.5)


@pytest.mark.parametrize("kind", ["LoRA", "checkpoint"])
def test_training_on_what_needs_a_base_says_how_to_make_a_model_of_it(flags, tmp_path, kind):
    train(flags(lora_rank=2, max_train_steps=1, save_steps=1))
    model = tmp_path / ("out" if kind == "LoRA" else "out/checkpoint-1")
    with pytest.raises(BadInput, match=f"it is a {kind}; python -m dreambooth.export makes a whole model of it"):
        train(flags(pretrained_model_name_or_path=model, output_dir=tmp_path / "next"))
    export.main(["--model_path", str(model), "--format", "pdparams", "--output", str(tmp_path / "model")])
    train(flags(pretrained_model_name_or_path=tmp_path / "model", output_dir=tmp_path / "next", dry_run=True))


def test_damaged_and_foreign_checkpoints_are_named(flags, tmp_path):
    train(flags(max_train_steps=1, save_steps=1))
    checkpoint = tmp_path / "out/checkpoint-1"
    with pytest.raises(BadInput, match="--model_path .*checkpoint-9: there is no such folder"):
        draw(tmp_path / "out/checkpoint-9", tmp_path)
    state = records.read_state(checkpoint)
    # a base of other sizes, and none at all
    for base, complaint in (
        (
            str(ROOT / "miniworld/model"),
            "checkpoint-1: it is of another model; .* of the unet's weights differ",
        ),
        ("/nowhere/at/all", "it is a checkpoint, and its base model can't be used .*/nowhere/at/all"),
    ):
        state["arguments"] |= {"base_model": base, "base_folder": None}
        (checkpoint / records.STATE).write_text(json.dumps(state))
        with pytest.raises(BadInput, match=complaint):
            draw(checkpoint, tmp_path)
    [weights] = (checkpoint / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadInput, match="this checkpoint is not whole: .* bytes instead of"):
        loading.load_family(loading.Source(str(checkpoint)), "--model_path")
