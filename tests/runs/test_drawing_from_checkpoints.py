"""infer.py, export and metrics with the folder of a checkpoint in place of a model."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
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
    web_ui = ["--model_path", str(checkpoint), "--format", "lora_web_ui", "--output", str(tmp_path / "a.safetensors")]
    with pytest.raises(BadInput, match="no LoRA, .*; this checkpoint can be drawn with as --model_path of infer.py"):
        export.main(web_ui)


def test_the_scale_is_for_the_lora_of_a_checkpoint_alone(flags, twin, tmp_path):
    train(flags(lora_rank=2, max_train_steps=1, save_steps=1, learning_rate=0.05))
    base, checkpoint = draw(twin, tmp_path), tmp_path / "out/checkpoint-1"
    assert (draw(checkpoint, tmp_path, "--lora_scale", 0) == base).all()
    assert (draw(checkpoint, tmp_path) != base).any()
    shutil.rmtree(tmp_path / "out")
    train(flags(max_train_steps=1, save_steps=1))
    with pytest.raises(BadInput, match="--lora_scale needs --lora, or a LoRA as --model_path"):
        draw(checkpoint, tmp_path, "--lora_scale", 0.5)


def test_damaged_and_foreign_checkpoints_are_named(flags, tmp_path):
    train(flags(max_train_steps=1, save_steps=1))
    checkpoint = tmp_path / "out/checkpoint-1"
    with pytest.raises(BadInput, match="--model_path .*checkpoint-9: there is no such folder"):
        draw(tmp_path / "out/checkpoint-9", tmp_path)
    state = json.loads((checkpoint / records.STATE).read_text())
    # a base of other sizes, and none at all
    for base, complaint in (
        (
            str(ROOT / "miniworld/model"),
            "checkpoint-1: it is of another model; .* of the unet's weights differ",
        ),
        ("/nowhere/at/all", "it is a checkpoint, and its base model can't be used .*/nowhere/at/all"),
    ):
        state["arguments"]["base_model"] = base
        (checkpoint / records.STATE).write_text(json.dumps(state))
        with pytest.raises(BadInput, match=complaint):
            draw(checkpoint, tmp_path)
    [weights] = (checkpoint / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadInput, match="this checkpoint is not whole: .* bytes instead of"):
        loading.load_family(loading.Source(str(checkpoint)), "--model_path")
