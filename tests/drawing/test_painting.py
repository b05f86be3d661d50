"""Drawing from a picture: as much of it as the strength says, or a region; as the library does, and exactly so."""

import importlib

import numpy as np
import paddle
import ppdiffusers
import pytest
from PIL import Image
from support.families import load_family

from dreambooth.config.commands import DrawSettings
from dreambooth.drawing import sampling
from dreambooth.drawing.inputs import painting
from dreambooth.drawing.inputs.starts import Start
from dreambooth.models import schedulers
from dreambooth.system import machine
from dreambooth.system.errors import BadInput

REQUESTS = [("a photo of a dog", 0), ("snow", 0), ("a photo of a dog", 1)]
FROM_PICTURES = {
    "twin": "StableDiffusionImg2ImgPipeline",
    "velocity_twin": "StableDiffusionImg2ImgPipeline",
    "xl_twin": "StableDiffusionXLImg2ImgPipeline",
    "sd3_twin": "StableDiffusion3Img2ImgPipeline",
}
each_twin = pytest.mark.parametrize("name", [*FROM_PICTURES, "inpainting_twin"])


def painter(family, start):
    return painting.Painter(family, (start.picture.height, start.picture.width), start)


def picture_of(seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(levels).resize((32, 32), Image.Resampling.BICUBIC)


@pytest.fixture
def family(request, name):
    return load_family(request.getfixturevalue(name))


@pytest.fixture
def draw(family):
    """A function: the pixels of pictures that begin from another."""

    def pixels(start, requests=REQUESTS, **changes):
        settings = DrawSettings(**{"seed": 0, "purpose": "picture", "size": (32, 32), "steps": 5, **changes})
        return [np.asarray(each) for each in sampling.draw(family, settings, requests, start)]

    return pixels


def same(ones, others):
    return all(np.array_equal(one, other) for one, other in zip(ones, others, strict=True))


@each_twin
def test_with_the_whole_strength_it_is_as_without_a_picture(draw):
    assert same(draw(Start(picture_of()), negative_prompt="blurry"), draw(None, negative_prompt="blurry"))
    assert same(draw(Start(picture_of()), guidance=1.0), draw(None, guidance=1.0))


@pytest.mark.parametrize("name", ["twin"])
@pytest.mark.parametrize("scheduler", [None, *schedulers.SCHEDULERS])
def test_a_picture_is_the_same_whatever_is_drawn_beside_it(draw, family, monkeypatch, scheduler):
    start = Start(picture_of(), strength=0.7)
    together = draw(start, scheduler=scheduler)
    alone = [picture for each in REQUESTS for picture in draw(start, [each], scheduler=scheduler)]
    assert same(together, alone) and not np.array_equal(alone[0], alone[2])
    monkeypatch.setattr(family, "split", machine.Split(2, 1))
    assert same(together, draw(start, scheduler=scheduler))


@each_twin
def test_a_smaller_strength_stays_nearer_to_the_picture(draw, family):
    """Of a VAE with random weights, the latents alone can be compared."""
    distances = []
    for strength in (0.2, 0.6, 1.0):
        start = Start(picture_of(), strength=strength)
        drawer = painter(family, start)
        noise = family.first_latents(0, "picture", [(0,)], (32, 32))
        latents = drawer.draw(drawer.encode(["a dog"], None, False), noise, 10, 1.0, as_latents=True)
        distances.append(float((latents - drawer._clean).square().mean()))
    assert distances == sorted(distances) and distances[0] < 0.5 * distances[2]


@pytest.mark.parametrize("name", FROM_PICTURES)
@pytest.mark.parametrize("strength", [0.5, 0.8])
def test_it_is_the_librarys_own_way(draw, family, name, strength, monkeypatch):
    pipeline_class = getattr(ppdiffusers, FROM_PICTURES[name])
    start = Start(picture_of(), strength=strength)
    clean = painter(family, start)._clean
    noise = family.first_latents(0, "picture", [(1,)], (32, 32))["latents"]
    module = importlib.import_module(pipeline_class.__module__)
    monkeypatch.setattr(module, "randn_tensor", lambda *arguments, **options: noise)
    whole = family.whole()
    parts = {part: value for part, value in whole.pipeline.components.items() if part != "image_encoder"}
    more = {"requires_safety_checker": False} if "safety_checker" in parts else {}
    pipeline = pipeline_class(**parts, **more)
    pipeline.set_progress_bar_config(disable=True)
    prompts = family.prompt_arguments(["a photo of a dog"], None, True)
    options = dict(num_inference_steps=5, guidance_scale=7.5, strength=strength)
    if name == "xl_twin":
        options |= dict(original_size=(32, 32), target_size=(32, 32))
    with paddle.no_grad():
        [theirs] = pipeline(image=clean, **prompts, **options).images
    [mine] = draw(start, [("a photo of a dog", 1)])
    assert np.abs(np.asarray(theirs, int) - mine).max() <= 1


@each_twin
def test_a_region_is_painted_and_the_rest_stays(draw):
    mask = Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 32))
    start = Start(picture_of(), mask)
    pictures = draw(start)
    for pixels in pictures:
        assert np.array_equal(pixels[:, :16], np.asarray(picture_of())[:, :16])
        assert not np.array_equal(pixels[:, 16:], np.asarray(picture_of())[:, 16:])
    alone = [picture for each in REQUESTS for picture in draw(start, [each])]
    assert same(pictures, alone)


@pytest.mark.parametrize("name", ["twin", "sd3_twin"])
def test_latents_outside_of_a_region_end_as_those_of_the_picture(family):
    mask = Image.new("L", (32, 32))
    mask.putpixel((9, 5), 255)  # a single pixel counts: its latent is painted
    drawer = painter(family, Start(picture_of(), mask))
    noise = family.first_latents(0, "picture", [(0,)], (32, 32))
    latents = drawer.draw(drawer.encode(["a dog"], None, True), noise, 4, 3.0, as_latents=True)
    differs = ((latents - drawer._clean).abs() > 1e-6).any(axis=1)[0].numpy()
    assert np.argwhere(differs).tolist() == [[2, 4]]


@pytest.mark.parametrize("name", ["inpainting_twin"])
def test_an_inpainting_model_sees_the_region_as_the_librarys_pipeline_shows_it(draw, family):
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 8, 32, 32))
    start = Start(picture_of(), mask)
    drawer = painter(family, start)
    pixels = paddle.to_tensor(np.asarray(picture_of(), np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
    arguments = {
        **family.prompt_arguments(["a photo of a dog"], None, True),
        "latents": family.first_latents(0, "picture", [(0,)], (32, 32))["latents"],
        "image": pixels,
        "mask_image": paddle.to_tensor(np.asarray(mask, np.float32)[None, None] / 255),
        "masked_image_latents": drawer._encoding["rest"],
    }
    with paddle.no_grad():
        [theirs] = family.pipeline(**arguments, height=32, width=32, num_inference_steps=5).images
    assert np.array_equal(start.kept(theirs), draw(start, REQUESTS[:1])[0])


@pytest.mark.parametrize("name", ["twin"])
@pytest.mark.parametrize("scheduler", [name for name, facts in schedulers.SCHEDULERS.items() if not facts.stochastic])
def test_with_a_perfect_prediction_every_solver_comes_back_to_the_picture(family, monkeypatch, scheduler):
    """Its noise is known, so the way from the middle ends where it began."""
    family = family.whole(scheduler)
    drawer = painter(family, Start(picture_of(), strength=0.3))
    noise = family.first_latents(0, "picture", [(0,)], (32, 32))
    monkeypatch.setattr(family, "predict", lambda noisy, t, conditioning: noise["latents"], raising=False)
    latents = drawer.draw(drawer.encode(["a dog"], None, False), noise, 20, 1.0, as_latents=True)
    error = float((latents - drawer._clean).square().mean().sqrt())
    assert error < 0.15, error


@pytest.mark.parametrize("name", ["twin"])
def test_timesteps_that_repeat_are_no_trouble(family):
    """DPM-Solver rounds those of Karras's noise levels."""
    family = family.whole("dpmsolver++")
    family.pipeline.scheduler = type(family.pipeline.scheduler).from_config(
        family.pipeline.scheduler.config, use_karras_sigmas=True
    )
    mask = Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 32))
    drawer = painter(family, Start(picture_of(), mask, strength=0.5))
    noise = family.first_latents(0, "picture", [(0,)], (32, 32))
    latents = drawer.draw(drawer.encode(["a dog"], None, False), noise, 50, 1.0, as_latents=True)
    timesteps = family.pipeline.scheduler.timesteps.tolist()
    assert len(set(timesteps)) < len(timesteps) and np.isfinite(latents.numpy()).all()


@pytest.mark.parametrize("name", ["unidiffuser_twin"])
def test_a_unidiffuser_is_refused(family):
    with pytest.raises(BadInput, match="--image: a model of UniDiffuserPipeline draws from no picture here"):
        painting.check(family, Start(picture_of()), 5)


@pytest.mark.parametrize("name", ["twin"])
def test_a_strength_without_a_step_is_refused(family):
    with pytest.raises(BadInput, match="--strength 0.1: of 5 steps that is less than one"):
        painting.check(family, Start(picture_of(), strength=0.1), 5)
    painting.check(family, Start(picture_of(), strength=0.2), 5)


@pytest.mark.parametrize("name", ["sd3_twin"])
def test_a_flow_draws_a_step_begun(family, draw):
    """As the libraries do: a tenth of five steps is one step of it, and none of another model."""
    painting.check(family, Start(picture_of(), strength=0.1), 5)


@pytest.mark.parametrize("name", ["twin"])
def test_a_vae_that_overflows_in_half_precision_is_brought_back(family, monkeypatch):
    family.pipeline.vae.to(dtype="float16")
    monkeypatch.setitem(family.pipeline.vae.config, "force_upcast", True)
    assert "float32" in str(family.space.exact_type(family.decoder)) and "float32" in str(family.decoder.dtype)
