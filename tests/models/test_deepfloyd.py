"""DeepFloyd IF: what its UNets see, how they are drawn with, and whole runs of both stages."""

import json
import sys

import numpy as np
import paddle
import ppdiffusers
import pytest
from PIL import Image
from support.commands import command_line, train, train_in_one_and_two_processes, train_whole_and_in_parts
from support.families import load_family
from support.weights import assert_same, mean_difference

import infer
from dreambooth.config.commands import DrawSettings
from dreambooth.data.concepts import View
from dreambooth.drawing import sampling
from dreambooth.drawing.inputs.painting import Painter
from dreambooth.drawing.inputs.starts import Start
from dreambooth.system.errors import BadInput

PROMPT = "a photo of sks dog"
PRIOR = dict(with_prior_preservation=True, class_prompt="a photo of a dog")


def give_noise(monkeypatch, pipeline, *noises):
    """Let the library's pipeline begin from some noise; it takes none as an argument."""
    left = list(noises)
    monkeypatch.setattr(sys.modules[type(pipeline).__module__], "randn_tensor", lambda *_, **__: left.pop(0))


def as_the_library_asks(family):
    """A copy that draws with DDIM, whose settings say that no variance is predicted."""
    copy = family.whole("ddim")
    copy.pipeline.scheduler.register_to_config(variance_type="fixed_small")
    return copy


def test_the_first_stage_draws_as_the_librarys_pipeline_does(pixels_twin, monkeypatch):
    family = as_the_library_asks(load_family(pixels_twin))
    noise = family.first_latents(3, "picture", [(0,)], (16, 16))
    painter = Painter(family, (16, 16))
    ours = painter.draw(painter.encode(["a Photo of sks Dog "], None, True), noise, 4, 3.0, as_latents=True)
    give_noise(monkeypatch, family.pipeline, noise["latents"])
    theirs = family.pipeline(
        "a Photo of sks Dog ", num_inference_steps=4, guidance_scale=3.0, output_type="pd", clean_caption=False
    )
    np.testing.assert_array_equal(ours.numpy(), theirs.images.numpy())


def test_the_second_stage_draws_as_the_librarys_pipeline_does(pixels_upscaler_twin, monkeypatch):
    family = as_the_library_asks(load_family(pixels_upscaler_twin))
    noise = family.first_latents(3, "picture", [(0,)], (32, 32))
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    painter = Painter(family, (32, 32), Start(small))
    ours = painter.draw(painter.encode([PROMPT], None, True), noise, 4, 3.0, as_latents=True)
    give_noise(monkeypatch, family.pipeline, noise["latents"], noise["augmentation"])
    theirs = family.pipeline(
        PROMPT, image=small, num_inference_steps=4, guidance_scale=3.0, output_type="pd", clean_caption=False,
        noise_level=20,
    )  # fmt: skip
    np.testing.assert_array_equal(ours.numpy(), theirs.images.numpy())


def test_pixels_are_their_own_latents(pixels_twin):
    family = load_family(pixels_twin)
    pixels = paddle.uniform([2, 3, 16, 16], min=-1, max=1)
    encoding = family.encode_pictures(pixels)
    assert family.latents(encoding, paddle.ones_like(pixels)) is encoding["mean"] is pixels
    assert family.default_size == (16, 16) and family.space.shape((24, 16)) == (3, 24, 16) and family.size_step == 2


def test_the_small_picture_is_enlarged_and_noised_before_the_unet_sees_it(pixels_upscaler_twin):
    family = load_family(pixels_upscaler_twin)
    encoding = family.encode_pictures(paddle.full([1, 3, 32, 32], 0.5))
    assert encoding["small"].shape == [1, 3, 8, 8]
    view = [View((32, 32), (32, 32))]
    plain = family.conditioning({}, encoding, view)
    np.testing.assert_allclose(plain["small"].numpy(), np.full([1, 3, 32, 32], 0.5), rtol=1e-6)
    noised = family.conditioning({}, {**encoding, "augmentation": paddle.ones([1, 3, 32, 32])}, view)
    kept = float(family.pipeline.image_noising_scheduler.alphas_cumprod[20])
    np.testing.assert_allclose(noised["small"].numpy(), kept**0.5 * 0.5 + (1 - kept) ** 0.5, rtol=1e-5)
    assert noised["level"].tolist() == [20]


@pytest.mark.parametrize("settings", [{}, dict(lora_rank=2), dict(no_cache_latents=True, ema_decay=0.9)])
@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_run_in_parts_and_over_processes_is_the_same(
    settings, stage, pixels_twin, pixels_upscaler_twin, pictures, tmp_path
):
    twin, part = pixels_twin if stage == "first" else pixels_upscaler_twin, "" if "lora_rank" in settings else "unet"
    settings = {**settings, "resolution": 16 if stage == "first" else 32}
    train_whole_and_in_parts(twin, pictures, tmp_path, **settings)
    assert_same(tmp_path / "whole" / part, tmp_path / "parts" / part)
    train_in_one_and_two_processes(twin, pictures, tmp_path, **settings)
    same, other = (mean_difference(tmp_path / "one" / part, tmp_path / name / part) for name in ("two", "other"))
    assert same < 2e-2 * other


def test_the_whole_road_of_both_stages(pixels_twin, pixels_upscaler_twin, pictures, tmp_path, capsys):
    settings = dict(
        **PRIOR, class_data_dir=tmp_path / "class", num_class_images=2, keep_best=True, validation_steps=1,
        resolution=16, mixed_precision="no", validation_prompt=[PROMPT],
    )  # fmt: skip
    train(command_line(pixels_twin, pictures, tmp_path / "first", **settings))
    assert "(a local folder, DeepFloyd)" in capsys.readouterr().out
    index = json.loads((tmp_path / "first/model_index.json").read_text())
    assert index["_class_name"] == "IFPipeline" and "vae" not in index
    assert "fixed_small" in (tmp_path / "first/scheduler/scheduler_config.json").read_text()
    assert_same(tmp_path / "first/text_encoder", pixels_twin / "text_encoder")
    assert mean_difference(tmp_path / "first/unet", pixels_twin / "unet") > 0
    train(command_line(pixels_upscaler_twin, pictures, tmp_path / "second", resolution=32, lora_rank=2))
    infer.main([
        f"--model_path={tmp_path / 'first'}", f"--upscaler={tmp_path / 'second'}", f"--prompt={PROMPT}",
        "--num_inference_steps=2", f"--output={tmp_path / 'dog.png'}",
    ])  # fmt: skip
    assert Image.open(tmp_path / "dog.png").size == (64, 64)
    parts = dict(safety_checker=None, watermarker=None, requires_safety_checker=False)
    pipeline = ppdiffusers.IFPipeline.from_pretrained(str(tmp_path / "first"), **parts)
    assert pipeline(PROMPT, num_inference_steps=2).images[0].size == (16, 16)


def test_it_is_drawn_from_a_picture_and_inside_a_mask(pixels_twin):
    family = load_family(pixels_twin)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 16))
    settings = DrawSettings(3, "picture", (16, 16), 4, scheduler="ddim")
    near, far = (
        np.asarray(next(sampling.draw(family, settings, [(PROMPT, 0)], Start(picture, strength=strength)))).astype(int)
        for strength in (0.25, 1.0)
    )
    assert np.abs(near - np.asarray(picture)).mean() < np.abs(far - np.asarray(picture)).mean()
    [painted] = sampling.draw(family, settings, [(PROMPT, 0)], Start(picture, mask))
    same = (np.asarray(painted) == np.asarray(picture)).all(-1)
    assert same[:, 8:].all() and not same[:, :8].all()


@pytest.mark.parametrize(
    "flags, named",
    [
        (dict(train_text_encoder=True), "--train_text_encoder: T5, "),
        (dict(learn_identifier="alone", instance_prompt="a photo of <sks> dog"), "--learn_identifier: T5, "),
        (dict(tokenizer_name="./other"), "--tokenizer_name: .* has the one of T5, in its own folder"),
    ],
)
def test_what_it_can_not_do_is_refused(flags, named, pixels_twin, pictures, tmp_path):
    with pytest.raises(BadInput, match=named):
        train(command_line(pixels_twin, pictures, tmp_path / "out", **{"resolution": 16, **flags}))


def test_a_size_that_the_unet_can_not_halve_is_refused(pixels_twin):
    with pytest.raises(BadInput, match="^--width 15: must be a multiple of 2, as the UNet halves it$"):
        load_family(pixels_twin).check_training((16, 15), gradient_checkpointing=False)


def test_tiling_is_refused_where_there_is_no_vae(pixels_twin):
    with pytest.raises(BadInput, match="^--vae_tiling: a model of IFPipeline has no VAE"):
        infer.main([f"--model_path={pixels_twin}", f"--prompt={PROMPT}", "--vae_tiling"])


def test_the_second_stage_draws_nothing_from_a_prompt_alone(pixels_upscaler_twin):
    with pytest.raises(BadInput, match="a model of IFSuperResolutionPipeline enlarges pictures, and draws none"):
        load_family(pixels_upscaler_twin).check_drawing(DrawSettings(3, "picture", (32, 32), 2))
