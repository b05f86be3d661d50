"""The inpainting family: what its UNet sees, the regions that a run paints, and whole runs."""

import numpy as np
import paddle
import pytest
from PIL import Image
from support.commands import command_line, train
from support.exactness import assert_exact
from support.families import load_family
from support.pictures import draw_pictures, write_left_masks
from support.slowly import mostly_slow

import infer
from dreambooth.config.commands import DrawSettings
from dreambooth.data.concepts import View
from dreambooth.drawing import sampling

PRIOR = dict(with_prior_preservation=True, class_prompt="a photo of a dog", num_class_images=2)


@pytest.fixture
def family(inpainting_twin):
    return load_family(inpainting_twin)


def test_the_unet_sees_what_the_pipeline_shows_it(family, monkeypatch):
    """Region and rest of a picture, where the pipeline gets the same encoding of the rest."""
    seen = []
    forward = type(family.pipeline.unet).forward

    def listening(self, sample, *arguments, **more):
        seen.append(sample)
        return forward(self, sample, *arguments, **more)

    monkeypatch.setattr(type(family.pipeline.unet), "forward", listening)
    numbers = np.random.default_rng(0)
    pixels = paddle.to_tensor(numbers.uniform(-1, 1, (1, 3, 32, 32)).astype("float32"))
    mask = paddle.zeros([1, 1, 32, 32])
    mask[:, :, 8:24, 4:20] = 1.0
    encoding = family.encode_pictures(pixels, mask)
    noise = paddle.to_tensor(numbers.standard_normal((1, 4, 16, 16)).astype("float32"))
    prompts = family.prompt_arguments(["a dog"], None, guided=False)
    family.pipeline(
        **prompts, image=(pixels + 1) / 2, mask_image=mask, masked_image_latents=encoding["rest"], latents=noise,
        height=32, width=32, num_inference_steps=1, guidance_scale=1.0,
    )  # fmt: skip
    conditioning = family.conditioning(family.encode_prompts(["a dog"]), encoding, [View((32, 32), (32, 32))])
    family.predict(noise, paddle.to_tensor([999]), conditioning)
    np.testing.assert_allclose(seen[0].numpy(), seen[1].numpy(), atol=1e-6)
    region = seen[1].numpy()[0, 4]
    assert region[4:12, 2:10].all() and region.sum() == 64
    # what is in the region does not count for the rest
    changed = pixels.clone()
    changed[:, :, 8:24, 4:20] = 0.5
    np.testing.assert_array_equal(family.encode_pictures(changed, mask)["rest"].numpy(), encoding["rest"].numpy())
    assert np.abs(family.encode_pictures(changed, mask)["mean"].numpy() - encoding["mean"].numpy()).max() > 1e-3


def test_the_first_batch_is_encoded_in_the_type_of_all_others(family, monkeypatch):
    """A VAE in half precision is brought back before it encodes anything, and not only when it decodes."""
    family.pipeline.vae.to(dtype="float16")
    monkeypatch.setitem(family.pipeline.vae.config, "force_upcast", True)
    found = family.first_latents(0, "picture", [(0,)], (32, 32))
    assert all("float32" in str(found[name].dtype) for name in ("image", "mask_image", "masked_image_latents"))


def test_without_a_picture_all_of_it_is_painted_and_the_same_each_time(family):
    settings = DrawSettings(3, "picture", (32, 32), 2)
    one, other, wide = (
        [np.asarray(each) for each in sampling.draw(family, settings, requests)]
        for requests in ([("a dog", 0)], [("a dog", 1), ("a dog", 0)], [("a dog", 0)])
    )
    np.testing.assert_array_equal(one[0], other[1])
    np.testing.assert_array_equal(one[0], wide[0])
    first = family.first_latents(3, "picture", [(0,), (1,)], (32, 48))
    assert first["latents"].shape == [2, 4, 16, 24] and first["mask_image"].numpy().all()


def test_the_whole_road(inpainting_twin, pictures, tmp_path, capsys):
    from ppdiffusers import StableDiffusionInpaintPipeline

    settings = dict(**PRIOR, class_data_dir=tmp_path / "class", train_text_encoder=True, validation_prompt=["sks dog"])
    others = draw_pictures(tmp_path / "others", 2, first=7)
    settings |= dict(validation_data_dir=others, validation_steps=1, keep_best=True)
    train(command_line(inpainting_twin, pictures, tmp_path / "out", **settings))
    assert "(a local folder, Inpainting)" in capsys.readouterr().out
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(str(tmp_path / "out"), safety_checker=None)
    image, mask = Image.new("RGB", (32, 32), "red"), Image.new("L", (32, 32), 255)
    drawn = pipeline("a photo of sks dog", image=image, mask_image=mask, num_inference_steps=2, height=32, width=32)
    assert drawn.images[0].size == (32, 32)
    infer.main(["--model_path", str(tmp_path / "out"), "--prompt", "sks dog", "--output", str(tmp_path / "1.png"),
                "--num_inference_steps", "2", "--height", "32", "--width", "32"])  # fmt: skip


METHODS = {
    "whole": dict(**PRIOR, train_text_encoder=True, random_flip=True),
    "LoRA": dict(lora_rank=4, prior_by_prediction=True, class_prompt="a dog", ema_decay=0.5, lora_dropout=0.2),
}


@pytest.mark.parametrize("method", mostly_slow(METHODS))
def test_runs_are_exact(method, inpainting_twin, pictures, class_pictures, tmp_path):
    settings = dict(METHODS[method])
    if method == "whole":
        settings["class_data_dir"] = class_pictures
    assert_exact(inpainting_twin, pictures, tmp_path, **settings)


def test_a_mask_is_the_region_that_is_painted(inpainting_twin, pictures, tmp_path, monkeypatch):
    from dreambooth.models.families.inpainting import Inpainting

    seen = []
    surroundings = Inpainting.surroundings

    def listening(self, pixels, mask):
        seen.append(mask.numpy())
        return surroundings(self, pixels, mask)

    monkeypatch.setattr(Inpainting, "surroundings", listening)
    masks = write_left_masks(pictures, tmp_path / "masks")
    train(command_line(inpainting_twin, pictures, tmp_path / "masked", mask_dir=masks))
    assert seen and all((mask[..., :14] > 0.9).all() and not mask[..., 18:].any() for mask in seen)
    seen.clear()
    train(command_line(inpainting_twin, pictures, tmp_path / "random", max_train_steps=4))
    assert len({mask.tobytes() for mask in seen}) == 4
