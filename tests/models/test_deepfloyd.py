"""DeepFloyd IF: what its UNets see, how they are drawn with, and whole runs of both stages."""

import json
import sys

import numpy as np
import paddle
import ppdiffusers
import pytest
from PIL import Image
from support.commands import command_line, train
from support.exactness import assert_exact
from support.families import load_family
from support.slowly import mostly_slow
from support.twins import build_pixels
from support.weights import assert_same, mean_difference

import infer
from dreambooth import export
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


@pytest.mark.parametrize("settings", mostly_slow([dict(lora_rank=2), {}, dict(no_cache_latents=True, ema_decay=0.9)]))
@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_run_in_parts_and_over_processes_is_the_same(
    settings, stage, pixels_twin, pixels_upscaler_twin, pictures, tmp_path
):
    twin, size = (pixels_twin, 16) if stage == "first" else (pixels_upscaler_twin, 32)
    assert_exact(twin, pictures, tmp_path, **settings, resolution=size)


def test_the_whole_road_of_both_stages(pixels_twin, pixels_upscaler_twin, pictures, class_pictures, tmp_path, capsys):
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
    own = dict(**PRIOR, class_data_dir=class_pictures, num_class_images=2)  # which the second stage does not draw
    train(command_line(pixels_upscaler_twin, pictures, tmp_path / "second", resolution=32, lora_rank=2, **own))
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


def test_a_size_that_the_unet_can_not_halve_is_not_drawn_either(tmp_path):
    levels = dict(
        block_out_channels=(16, 16, 16, 32),
        down_block_types=("ResnetDownsampleBlock2D",) * 3 + ("SimpleCrossAttnDownBlock2D",),
        up_block_types=("SimpleCrossAttnUpBlock2D",) + ("ResnetUpsampleBlock2D",) * 3,
    )
    family = load_family(build_pixels(tmp_path / "twin", size=16, **levels))
    with pytest.raises(BadInput, match="^--height 20: must be a multiple of 8, as the UNet halves it$"):
        family.check_drawing(DrawSettings(3, "picture", (20, 16), 2))


def test_another_solver_keeps_pixels_in_their_range_whatever_the_folder_says(pixels_twin):
    family = load_family(pixels_twin)
    own = family.pipeline.scheduler
    family.pipeline.scheduler = own.from_config(own.config, thresholding=False)
    assert family.whole("ddim").pipeline.scheduler.config.thresholding
    assert not family.whole().pipeline.scheduler.config.thresholding


def test_web_uis_get_no_lora_of_it(
    pixels_twin, pixels_upscaler_twin, upscaler_twin, unidiffuser_twin, pictures, tmp_path
):
    for twin, size in ((pixels_twin, 16), (pixels_upscaler_twin, 32), (upscaler_twin, 32), (unidiffuser_twin, 32)):
        out = tmp_path / twin.parent.name
        train(command_line(twin, pictures, out, resolution=size, lora_rank=2))
        with pytest.raises(BadInput, match="^--format lora_web_ui: web UIs load "):
            export.main([f"--model_path={out}", "--format=lora_web_ui", f"--output={tmp_path / 'x.safetensors'}"])
    file = tmp_path / "alone.safetensors"
    export.main([f"--model_path={tmp_path / pixels_twin.parent.name}", "--format=lora_diffusers", f"--output={file}"])
    with pytest.raises(BadInput, match="^--format lora_web_ui: web UIs load "):
        export.main([f"--model_path={file}", "--format=lora_web_ui", f"--output={tmp_path / 'x.safetensors'}"])


def test_the_layers_that_see_the_prompt_can_train_alone(pixels_twin, pictures, tmp_path):
    train(command_line(pixels_twin, pictures, tmp_path / "out", resolution=16, trained_layers=["key_value"]))
    base, own = (load_family(folder).denoiser.state_dict() for folder in (pixels_twin, tmp_path / "out"))
    changed = {name.split(".")[-2] for name in base if (base[name] != own[name]).any()}
    assert changed == {"add_k_proj", "add_v_proj"}


def test_the_card_of_a_second_stage_draws_with_the_level_of_the_training(pixels_upscaler_twin, pictures, tmp_path):
    train(command_line(pixels_upscaler_twin, pictures, tmp_path / "out"))
    assert 'image=Image.open("small.png"), noise_level=20)' in (tmp_path / "out/README.md").read_text()


def test_it_can_not_go_without_t5(pixels_twin):
    with pytest.raises(BadInput, match="^--without_t5: .* reads prompts by T5 alone; leave it out$"):
        infer.main([f"--model_path={pixels_twin}", f"--prompt={PROMPT}", "--without_t5"])


def test_tiling_is_refused_where_there_is_no_vae(pixels_twin):
    with pytest.raises(BadInput, match="^--vae_tiling: a model of IFPipeline has no VAE"):
        infer.main([f"--model_path={pixels_twin}", f"--prompt={PROMPT}", "--vae_tiling"])


def test_tiling_is_for_the_one_of_two_models_that_has_a_vae(pixels_twin, upscaler_twin, tmp_path):
    file = tmp_path / "dog.png"
    infer.main([
        f"--model_path={pixels_twin}", f"--prompt={PROMPT}", f"--upscaler={upscaler_twin}", "--vae_tiling",
        "--num_inference_steps=2", f"--output={file}",
    ])  # fmt: skip
    assert Image.open(file).size == (32, 32)


def test_what_the_second_model_can_not_draw_is_said_before_the_first_draws(twin, pixels_upscaler_twin, capsys):
    with pytest.raises(BadInput, match="^--scheduler euler: a model of pixels can't be drawn with it"):
        infer.main([
            f"--model_path={twin}", f"--prompt={PROMPT}", f"--upscaler={pixels_upscaler_twin}", "--scheduler=euler",
        ])  # fmt: skip
    assert "Drawing" not in capsys.readouterr().err


def test_the_second_stage_draws_nothing_from_a_prompt_alone(pixels_upscaler_twin):
    with pytest.raises(BadInput, match="a model of IFSuperResolutionPipeline enlarges pictures, and draws none"):
        load_family(pixels_upscaler_twin).check_drawing(DrawSettings(3, "picture", (32, 32), 2))
