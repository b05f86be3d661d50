"""Whole runs on a twin of Stable Diffusion XL: what results, that runs are exact, and what other tools get."""

import json

import numpy as np
import pytest
from PIL import Image
from support.commands import command_line, launch, train, train_whole_and_in_parts
from support.pictures import draw_pictures
from support.weights import assert_same, mean_difference, weights

import infer
from dreambooth import export

PARTS = ("unet", "text_encoder", "text_encoder_2")
PRIOR = dict(with_prior_preservation=True, class_prompt="a photo of a dog", num_class_images=2)
LORA = dict(lora_rank=4, lora_targets=["all"], learning_rate=1e-2)


def drawn(folder, out, *more):
    infer.main(["--model_path", str(folder), "--prompt", "a photo of sks dog", "--output", str(out), *map(str, more),
                "--num_inference_steps", "4", "--height", "32", "--width", "32"])  # fmt: skip
    return np.asarray(Image.open(out)).astype(int)


def test_the_whole_road(xl_twin, pictures, tmp_path, capsys):
    from ppdiffusers import StableDiffusionXLPipeline

    settings = dict(**PRIOR, class_data_dir=tmp_path / "class", train_text_encoder=True, validation_prompt=["a sks dog"])
    train(command_line(xl_twin, pictures, tmp_path / "out", **settings))
    said = capsys.readouterr().out
    assert "(a local folder, StableDiffusionXL)" in said
    assert len([*(tmp_path / "class").rglob("*.png")]) == 2
    for part in PARTS:
        before, after = weights(xl_twin / part), weights(tmp_path / "out" / part)
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert changed
    last = "text_model.encoder.layers.1."
    after = weights(tmp_path / "out/text_encoder")
    assert all(np.array_equal(after[name], each) for name, each in weights(xl_twin / "text_encoder").items() if name.startswith(last))
    pipeline = StableDiffusionXLPipeline.from_pretrained(str(tmp_path / "out"), add_watermarker=False)
    image = pipeline("a photo of sks dog", num_inference_steps=2, height=32, width=32).images[0]
    assert image.size == (32, 32)
    assert np.abs(drawn(tmp_path / "out", tmp_path / "1.png") - drawn(xl_twin, tmp_path / "2.png")).max() > 2


METHODS = {
    "whole": dict(**PRIOR, train_text_encoder=True, resize_mode="buckets", random_flip=True, caption_dropout=0.5),
    "LoRA": dict(**LORA, lora_dropout=0.3, train_text_encoder=True, resize_mode="crop", random_crop=True),
    "by prediction": dict(**LORA, prior_by_prediction=True, class_prompt="a dog", snr_gamma=5, ema_decay=0.9),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_as_one_that_was_not_stopped(method, xl_twin, pictures, class_pictures, tmp_path):
    settings = dict(METHODS[method])
    if "with_prior_preservation" in settings:
        settings["class_data_dir"] = class_pictures
    train_whole_and_in_parts(xl_twin, pictures, tmp_path, **settings)
    for part in PARTS if method == "whole" else ("",):
        assert_same(tmp_path / "whole" / part, tmp_path / "parts" / part)


@pytest.mark.parametrize("method", ["whole", "LoRA"])
def test_two_processes_learn_what_one_does(method, xl_twin, pictures, class_pictures, tmp_path):
    settings = dict(METHODS[method])
    if "with_prior_preservation" in settings:
        settings["class_data_dir"] = class_pictures
    train(command_line(xl_twin, pictures, tmp_path / "one", **settings, train_batch_size=2))
    done = launch(tmp_path, "train_dreambooth.py", *command_line(xl_twin, pictures, tmp_path / "two", **settings))
    assert done.returncode == 0, done.stdout + done.stderr
    train(command_line(xl_twin, pictures, tmp_path / "other", **{**settings, "seed": 1}, train_batch_size=2))
    for part in PARTS if method == "whole" else ("",):
        same, other = (mean_difference(tmp_path / "one" / part, tmp_path / name / part) for name in ("two", "other"))
        assert same < 2e-2 * other


def test_gradient_checkpointing_changes_nothing(xl_twin, pictures, tmp_path):
    settings = dict(train_text_encoder=True)
    train(command_line(xl_twin, pictures, tmp_path / "one", **settings))
    train(command_line(xl_twin, pictures, tmp_path / "other", **settings, gradient_checkpointing=True))
    for part in PARTS:
        assert_same(tmp_path / "one" / part, tmp_path / "other" / part)


def test_the_cut_of_a_picture_is_learned_with_it(xl_twin, tmp_path):
    """Runs that differ in the recorded corner alone end with other weights."""
    wide = draw_pictures(tmp_path / "wide", 1, size=(96, 48))
    train(command_line(xl_twin, wide, tmp_path / "squeezed", resize_mode="squeeze"))
    train(command_line(xl_twin, wide, tmp_path / "cut", resize_mode="crop"))
    name = "add_embedding.linear_1.weight"
    before = weights(xl_twin / "unet")[name]
    changes = [weights(tmp_path / run / "unet")[name] - before for run in ("squeezed", "cut")]
    assert np.abs(changes[0] - changes[1]).max() > 1e-5


def test_a_mask_changes_what_is_learned(xl_twin, pictures, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in pictures.glob("*.*"):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, :32] = 255
        Image.fromarray(mask).save(masks / f"{path.stem}.png")
    train(command_line(xl_twin, pictures, tmp_path / "plain"))
    train(command_line(xl_twin, pictures, tmp_path / "masked", mask_dir=masks))
    assert mean_difference(tmp_path / "plain/unet", tmp_path / "masked/unet") > 1e-6


def test_the_lora_its_checkpoint_and_the_merged_pipeline_draw_the_same(xl_twin, pictures, tmp_path):
    settings = dict(LORA, lora_merge=True, save_steps=3, max_train_steps=3, train_text_encoder=True)
    train(command_line(xl_twin, pictures, tmp_path / "out", **settings))
    merged = drawn(tmp_path / "out", tmp_path / "merged.png")
    lora = tmp_path / "out/paddle_lora_weights.safetensors"
    for name, model, more in (("lora", xl_twin, ["--lora", lora]), ("checkpoint", tmp_path / "out/checkpoint-3", [])):
        assert np.abs(drawn(model, tmp_path / f"{name}.png", *more) - merged).max() <= 1, name
    assert np.abs(drawn(xl_twin, tmp_path / "base.png") - merged).max() > 2
    for form in ("lora_diffusers", "lora_web_ui"):
        path = tmp_path / f"{form}.safetensors"
        export.main([f"--model_path={tmp_path / 'out/checkpoint-3'}", f"--format={form}", f"--output={path}"])
        assert np.abs(drawn(xl_twin, tmp_path / f"{form}.png", "--lora", path) - merged).max() <= 1, form
    names = {name.split("_")[1] for name in weights_in(path)}
    assert names == {"unet", "te1", "te2"}


def weights_in(path):
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return [*file.keys()]


def test_the_card_says_how_to_draw(xl_twin, pictures, tmp_path):
    train(command_line(xl_twin, pictures, tmp_path / "out", train_text_encoder=True))
    card = (tmp_path / "out/README.md").read_text()
    assert "from ppdiffusers import StableDiffusionXLPipeline" in card
    assert "UNet and first text encoder and second text encoder" in card
    record = json.loads((tmp_path / "out/training_args.json").read_text())
    assert record["flags"]["train_text_encoder"] is True
