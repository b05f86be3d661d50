"""The family that enlarges: what its UNet sees, and whole runs."""

import importlib
import json

import numpy as np
import paddle
import ppdiffusers
import pytest
from PIL import Image
from support.commands import command_line, train
from support.exactness import assert_exact
from support.families import load_family
from support.slowly import mostly_slow
from support.weights import assert_same, mean_difference

from dreambooth.config.commands import DrawSettings
from dreambooth.data.concepts import View
from dreambooth.drawing import sampling
from dreambooth.drawing.inputs.starts import Start
from dreambooth.models import loading
from dreambooth.system.errors import BadInput

PRIOR = dict(with_prior_preservation=True, class_prompt="a photo of a dog", num_class_images=2)


@pytest.fixture
def family(upscaler_twin):
    return load_family(upscaler_twin)


def picture_of(side=16, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def test_it_draws_what_the_librarys_pipeline_draws(family, monkeypatch):
    noise = family.first_latents(3, "picture", [(0,)], (32, 32))
    module = importlib.import_module(type(family.pipeline).__module__)
    monkeypatch.setattr(module, "randn_tensor", lambda *arguments, **options: noise["augmentation"])
    pixels = paddle.to_tensor(np.asarray(picture_of(), np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
    for guidance in (7.5, 1.0):
        [theirs] = family.pipeline(
            **family.prompt_arguments(["a dog"], None, guidance > 1), image=pixels, latents=noise["latents"],
            num_inference_steps=3, guidance_scale=guidance, noise_level=20,
        ).images  # fmt: skip
        settings = DrawSettings(3, "picture", (32, 32), 3, guidance)
        [mine] = sampling.draw(family, settings, [("a dog", 0)], Start(picture_of()))
        assert np.array_equal(np.asarray(theirs), np.asarray(mine)) and mine.size == (32, 32)


def test_the_small_picture_is_the_mean_of_the_large_ones_pixels(family):
    pixels = paddle.to_tensor(np.random.default_rng(0).uniform(-1, 1, (2, 3, 32, 32)).astype("float32"))
    small = family.encode_pictures(pixels)["small"].numpy()
    np.testing.assert_allclose(small, pixels.numpy().reshape(2, 3, 16, 2, 16, 2).mean((3, 5)), atol=1e-6)


def test_a_little_noise_is_added_to_it_and_the_unet_told_so(family):
    prompts, views = family.encode_prompts(["a dog"]), [View((32, 32), (32, 32))]
    small, noise = paddle.zeros([1, 3, 16, 16]), paddle.ones([1, 3, 16, 16])
    plain = family.conditioning(prompts, {"small": small}, views)
    noisy = family.conditioning(prompts, {"small": small, "augmentation": noise}, views)
    assert not plain["small"].numpy().any() and noisy["level"].tolist() == [20]
    assert 0.03 < float(noisy["small"].mean()) < 0.08  # the deviation of its noise


@pytest.mark.parametrize(
    "settings", mostly_slow([dict(lora_rank=2, train_text_encoder=True), {}, dict(no_cache_latents=True)])
)
def test_a_run_in_parts_and_over_processes_is_the_same(settings, upscaler_twin, pictures, tmp_path):
    assert_exact(upscaler_twin, pictures, tmp_path, **settings)


def test_the_whole_road(upscaler_twin, pictures, class_pictures, tmp_path, capsys):
    settings = dict(**PRIOR, class_data_dir=class_pictures, train_text_encoder=True, keep_best=True, validation_steps=1)
    train(command_line(upscaler_twin, pictures, tmp_path / "out", **settings))
    assert "(a local folder, Upscaler)" in capsys.readouterr().out
    pipeline = ppdiffusers.StableDiffusionUpscalePipeline.from_pretrained(str(tmp_path / "out"), safety_checker=None)
    image = Image.new("RGB", (64, 64), "red")
    assert pipeline("a photo of sks dog", image=image, num_inference_steps=2).images[0].size == (128, 128)
    index = json.loads((tmp_path / "out/model_index.json").read_text())
    assert index["max_noise_level"] == 350 and index["low_res_scheduler"] == ["ppdiffusers", "DDPMScheduler"]
    assert_same(tmp_path / "out/vae", upscaler_twin / "vae")
    assert mean_difference(tmp_path / "out/unet", upscaler_twin / "unet") > 0


@pytest.mark.parametrize("settings", [PRIOR, dict(validation_prompt=["sks dog"], validation_steps=1)])
def test_it_draws_nothing_from_a_prompt_alone(settings, upscaler_twin, pictures, tmp_path):
    if "class_prompt" in settings:
        settings = {**settings, "class_data_dir": tmp_path / "class"}
    with pytest.raises(BadInput, match="enlarges pictures, and draws none from a prompt alone: give infer.py"):
        train(command_line(upscaler_twin, pictures, tmp_path / "out", **settings))


def test_a_lora_is_put_into_it_again(upscaler_twin, pictures, tmp_path):
    train(command_line(upscaler_twin, pictures, tmp_path / "out", lora_rank=2, learning_rate=1e-2))
    settings = DrawSettings(3, "picture", (32, 32), 2)
    drawn = []
    for folder in (tmp_path / "out", upscaler_twin):
        family = loading.load_family(loading.Source(str(folder)))
        [picture] = sampling.draw(family, settings, [("a photo of sks dog", 0)], Start(picture_of()))
        drawn.append(np.asarray(picture))
    assert (drawn[0] != drawn[1]).any()
