"""A ControlNet beside a UNet: it draws as the library's pipeline does, in every layout of its folder."""

import json
import shutil

import numpy as np
import paddle
import ppdiffusers
import pytest
from PIL import Image
from support.families import load_family
from support.twins import build_control

from dreambooth.config.commands import DrawSettings
from dreambooth.drawing import sampling
from dreambooth.models.family import control
from dreambooth.system.errors import BadInput

SETTINGS = DrawSettings(seed=0, purpose="picture", size=(32, 32), steps=3)
PIPELINES = {"twin": "StableDiffusionControlNetPipeline", "xl_twin": "StableDiffusionXLControlNetPipeline"}


def pose(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8))


@pytest.fixture(params=PIPELINES)
def family(request):
    return load_family(request.getfixturevalue(request.param))


@pytest.fixture
def folder(family, tmp_path):
    return build_control(tmp_path / "control", family)


def draw(family, requests=(("a photo of a dog", 0),)):
    return [np.asarray(each) for each in sampling.draw(family, SETTINGS, requests)]


def test_it_draws_what_the_librarys_pipeline_draws(family, folder):
    plain = draw(family)
    name = PIPELINES["xl_twin" if "XL" in family.facts.pipeline else "twin"]
    network = ppdiffusers.ControlNetModel.from_pretrained(str(folder))
    parts = {part: each for part, each in family.pipeline.components.items() if part != "image_encoder"}
    more = {"add_watermarker": False} if "XL" in name else {"requires_safety_checker": False}
    pipeline = getattr(ppdiffusers, name)(**parts, controlnet=network, **more)
    pipeline.set_progress_bar_config(disable=True)
    with paddle.no_grad():
        [theirs] = pipeline(
            **family.prompt_arguments(["a photo of a dog"], None, True),
            **family.first_latents(0, "picture", [(0,)], (32, 32)),
            image=pose(),
            num_inference_steps=3,
            guidance_scale=7.5,
            controlnet_conditioning_scale=0.7,
        ).images
    controlled = control.add(family, str(folder), 0.7)
    controlled.show(pose())
    [mine] = draw(family)
    assert np.array_equal(np.asarray(theirs), mine) and not np.array_equal(mine, plain[0])


def test_a_fresh_one_adds_nothing_and_another_pose_draws_another_picture(family, tmp_path):
    plain = draw(family)
    fresh = control.add(family, str(build_control(tmp_path / "fresh", family, fresh=True)), 1.0)
    fresh.show(pose())
    assert np.array_equal(draw(family), plain)
    family.pipeline.unet = fresh.unet
    controlled = control.add(family, str(build_control(tmp_path / "other", family)), 1.0)
    drawn = []
    for seed in (0, 1):
        controlled.show(pose(seed))
        drawn.append(draw(family)[0])
    assert not np.array_equal(drawn[0], drawn[1])


def test_a_picture_is_the_same_whatever_is_drawn_beside_it(family, folder):
    control.add(family, str(folder), 1.0).show(pose())
    requests = [("a photo of a dog", 0), ("snow", 3), ("a photo of a dog", 1)]
    alone = [picture for each in requests for picture in draw(family, [each])]
    assert all(np.array_equal(one, other) for one, other in zip(draw(family, requests), alone, strict=True))


@pytest.fixture
def clip_family(twin):
    return load_family(twin)


def test_weights_of_torch_and_of_half_precision_are_read(clip_family, tmp_path):
    ours = build_control(tmp_path / "ours", clip_family)
    network = ppdiffusers.ControlNetModel.from_pretrained(str(ours))
    network.save_pretrained(str(tmp_path / "torch"), to_diffusers=True, safe_serialization=True)
    [weights] = (tmp_path / "torch").glob("*.safetensors")
    assert weights.name == "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    found = []
    for folder in ("ours", "torch"):
        family = load_family(clip_family.source.name)
        control.add(family, str(tmp_path / folder), 1.0).show(pose())
        found.append(draw(family)[0])
    assert np.array_equal(*found)
    assert sorted(path.name for path in (tmp_path / "torch").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.fp16.safetensors",
    ]  # the library leaves its own copy in the folder that it reads


def test_it_goes_with_an_inpainting_model(inpainting_twin, twin, tmp_path):
    family = load_family(inpainting_twin)
    folder = build_control(tmp_path / "control", load_family(twin))
    before = draw(family)
    control.add(family, str(folder), 1.0).show(pose())
    assert not np.array_equal(draw(family)[0], before[0])


def test_what_does_not_fit_is_refused_in_one_line(clip_family, velocity_twin, tmp_path):
    folder = build_control(tmp_path / "control", clip_family)

    def reason(path, family=clip_family):
        with pytest.raises(BadInput) as found:
            control.add(family, str(path), 1.0)
        assert str(found.value).startswith("--controlnet ") and "\n" not in str(found.value)
        return str(found.value)

    assert "there is no such folder" in reason(tmp_path / "gone")
    shutil.copytree(folder, tmp_path / "empty")
    for path in (tmp_path / "empty").glob("*model*"):
        path.unlink()
    assert "can't be loaded as a ControlNet (it has no weights)" in reason(tmp_path / "empty")
    assert "it is a whole pipeline, and a ControlNet is a network beside one" in reason(velocity_twin)
    (tmp_path / "empty/config.json").unlink()
    assert "it has no config.json" in reason(tmp_path / "empty")
    factor = build_control(tmp_path / "factor", clip_family, conditioning_embedding_out_channels=(16, 32, 32))
    assert "it is for models whose factor is 4, and this one's is 2" in reason(factor)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "cross_attention_dim": 48}))
    assert "can't be loaded as a ControlNet" in reason(folder)  # its weights have other shapes


TAKE_NONE = ("unidiffuser_twin", "sd3_twin", "upscaler_twin", "pixels_twin", "pixels_upscaler_twin")


def test_one_of_other_models_is_refused(clip_family, xl_twin, request, tmp_path):
    folder = str(build_control(tmp_path / "control", clip_family))
    with pytest.raises(BadInput, match="it is for other models; its cross_attention_dim is 32, and this model's 72"):
        control.add(load_family(xl_twin), folder, 1.0)
    for other in TAKE_NONE:
        with pytest.raises(BadInput, match="--controlnet .*: a model of .* takes no ControlNet here"):
            control.add(load_family(request.getfixturevalue(other)), folder, 1.0)
