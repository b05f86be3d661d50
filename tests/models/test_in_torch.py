"""What is written for diffusers draws the same in torch; needs a Python that has both.

python -m pytest tests/models/test_in_torch.py --torch_python ./torch_env/bin/python
"""

import functools
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image
from ppdiffusers import ControlNetModel
from support.commands import command_line, train
from support.families import load_family
from support.twins import BUILDERS, build_control, build_sd3, build_twin

from dreambooth import export
from dreambooth.drawing.inputs.painting import Painter, size_of_start
from dreambooth.drawing.inputs.starts import Start
from dreambooth.models.family import control

PROMPTS = ["a photo of sks dog", "a dog"]
KEYS = [(0,), (1,)]
CLOSE = 1e-5
BERT = "Taiyi"
SCRIPT = Path(__file__).parents[1] / "support/in_torch.py"


@pytest.fixture
def in_torch(request, tmp_path):
    """A function: what torch makes of a folder for diffusers, with the inputs of a family."""
    python = request.config.getoption("--torch_python")
    if not python:
        pytest.skip("give --torch_python PATH, a Python with torch, diffusers, transformers and peft")

    def run(folder, family, *more, **also):
        given = {**{name: each.numpy() for name, each in inputs(family).items()}, **also}
        np.savez(tmp_path / "inputs.npz", prompts=np.array(PROMPTS), guidance=guidance(family), **given)
        line = [python, SCRIPT, folder, tmp_path / "inputs.npz", tmp_path / "outputs.npz", *more]
        done = subprocess.run([str(each) for each in line], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return dict(np.load(tmp_path / "outputs.npz"))

    return run


def inputs(family):
    pixels = paddle.to_tensor(np.random.default_rng(0).uniform(-1, 1, (2, 3, *family.default_size)).astype("float32"))
    found = {"pixels": pixels, **family.first_latents(3, "picture", KEYS, family.default_size)}
    return {**found, "small": paddle.to_tensor(picture_of(family)[1])} if family.facts.enlarges else found


def guidance(family):
    if family.facts.stochastic:
        return 1.0  # whose guidance is random
    return 3.0 if family.decoder else 1.5  # which no VAE softens


def solver_of(family):
    """One that draws no noise of its own; None: the model's."""
    return "ddim" if family.facts.stochastic or not family.decoder else None


def outputs(family):
    """The same here."""
    height, width = family.default_size
    given = inputs(family)
    with paddle.no_grad():
        mean = family.encode_pictures(given.pop("pixels"))["mean"]
        if family.facts.enlarges or not family.decoder:
            start = Start(picture_of(family)[0]) if family.facts.enlarges else None
            return {"mean": mean.numpy(), "pictures": begun_from(family.whole(solver_of(family)), start)}
        pictures = (
            family.whole(solver_of(family))
            .pipeline(
                **family.prompt_arguments(PROMPTS, None, guided=True),
                **given,
                height=height,
                width=width,
                num_inference_steps=4,
                guidance_scale=guidance(family),
                output_type="np",
            )
            .images
        )
    return {"mean": mean.numpy(), "pictures": np.asarray(pictures)}


def difference(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def picture_of(family):
    """A picture, and its pixels [1, 3, height, width] in [-1, 1]."""
    height, width = size_of_start(family, family.default_size)
    levels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels), levels.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1


def begun_from(family, start):
    """What is drawn from a picture, [n, height, width, 3] in [0, 1]."""
    drawer = Painter(family, family.default_size, start)
    drawn = []
    for prompt, key in zip(PROMPTS, KEYS):
        given = family.first_latents(3, "picture", [key], family.default_size)
        latents = drawer.draw(drawer.encode([prompt], None, True), given, 4, guidance(family), as_latents=True)
        with paddle.no_grad():
            drawn.append(family.space.decode(family.decoder, latents))
    drawn = paddle.concat(drawn)
    return (drawn / 2 + 0.5).clip(0, 1).transpose([0, 2, 3, 1]).numpy()


def test_a_picture_is_begun_from_as_in_torch(twin_folder, in_torch, tmp_path):
    family = load_family(twin_folder)
    if family.facts.stochastic or family.facts.paints or family.facts.enlarges or not family.decoder:
        pytest.skip(
            "it draws from no picture, from noise or a region alone, or from a small picture, as compared above"
        )
    family.save(tmp_path / "diffusers", "diffusers")
    picture, pixels = picture_of(family)
    ours = {"pictures": begun_from(family, Start(picture, strength=0.5))}
    theirs = in_torch(tmp_path / "diffusers", family, "--strength", 0.5, start=pixels)
    found = difference(ours, {"pictures": theirs["pictures"]})
    print(f"{family.facts.pipeline}: {found:.1e}")
    assert found < CLOSE


def test_a_controlnet_leads_as_in_torch(twin_folder, in_torch, tmp_path):
    family = load_family(twin_folder)
    if not family.facts.control or family.facts.paints:
        pytest.skip("it takes no ControlNet, or diffusers has another pipeline for it")
    family.save(tmp_path / "diffusers", "diffusers")
    ControlNetModel.from_pretrained(str(build_control(tmp_path / "control", family))).save_pretrained(
        str(tmp_path / "torch control"), to_diffusers=True
    )
    picture, pixels = picture_of(family)
    control.add(family, str(tmp_path / "torch control"), 0.7).show(picture)
    theirs = in_torch(tmp_path / "diffusers", family, "--control", tmp_path / "torch control", seen=pixels / 2 + 0.5)
    found = difference(outputs(family), theirs)
    print(f"{family.facts.pipeline}: {found:.1e}")
    assert found < CLOSE


def painted(family, strength):
    """What is drawn into a region of a picture, and that for torch: its pixels, and 1 where it is painted."""
    picture, pixels = picture_of(family)
    height, width = family.default_size
    region = np.zeros((1, 1, height, width), np.float32)
    region[:, :, 4 : height // 2, 8:] = 1  # whole places of the latents
    mask = Image.fromarray((255 * region[0, 0]).astype(np.uint8))
    return {"pictures": begun_from(family, Start(picture, mask, strength))}, {"start": pixels, "region": region}


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_region_is_painted_as_in_torch(strength, twin_folder, in_torch, tmp_path):
    family = load_family(twin_folder)
    if not family.facts.has_places or family.facts.enlarges or not family.decoder:
        pytest.skip("it paints into no region, or diffusers' pipeline of pixels draws other noise")
    family.save(tmp_path / "diffusers", "diffusers")
    ours, given = painted(family, strength)
    theirs = in_torch(tmp_path / "diffusers", family, "--strength", strength, **given)
    found = difference(ours, {"pictures": theirs["pictures"]})
    print(f"{family.facts.pipeline}: {found:.1e}")
    assert found < CLOSE


def test_a_controlnet_leads_into_a_region_as_in_torch(twin_folder, in_torch, tmp_path):
    family = load_family(twin_folder)
    if not family.facts.control:
        pytest.skip("it takes no ControlNet")
    family.save(tmp_path / "diffusers", "diffusers")
    # of a model for text to image, as all are, though this one may paint
    controlled = load_family(build_twin(tmp_path / "plain")) if family.facts.paints else family
    ControlNetModel.from_pretrained(str(build_control(tmp_path / "control", controlled))).save_pretrained(
        str(tmp_path / "torch control"), to_diffusers=True
    )
    picture, pixels = picture_of(family)
    control.add(family, str(tmp_path / "torch control"), 0.7).show(picture)
    ours, given = painted(family, 1.0)
    more = ["--strength", 1.0, "--control", tmp_path / "torch control"]
    theirs = in_torch(tmp_path / "diffusers", family, *more, **given, seen=pixels / 2 + 0.5)
    found = difference(ours, {"pictures": theirs["pictures"]})
    print(f"{family.facts.pipeline}: {found:.1e}")
    assert found < CLOSE


OF_2 = dict(text="open_clip", prediction_type="v_prediction", scheduler="DDIMScheduler", use_linear_projection=True)
TWINS = {
    **BUILDERS,
    "StableDiffusion3Pipeline without T5": functools.partial(build_sd3, t5=False),
    "Stable Diffusion 2": functools.partial(build_twin, **OF_2, attention_head_dim=(2, 4)),
    BERT: functools.partial(build_twin, text="bert"),
}


@pytest.fixture(params=TWINS)
def twin_folder(request, in_torch, tmp_path):  # not made where the test is skipped
    return TWINS[request.param](tmp_path / request.param / "twin")


def test_a_folder_for_diffusers_draws_the_same_in_torch(twin_folder, in_torch, tmp_path):
    family = load_family(twin_folder)
    family.save(tmp_path / "diffusers", "diffusers")
    found = difference(outputs(family), in_torch(tmp_path / "diffusers", family))
    print(f"{family.facts.pipeline}: {found:.1e}")
    assert found < CLOSE


def test_one_file_draws_the_same_in_torch(twin_folder, in_torch, tmp_path):
    family = load_family(twin_folder)
    if not family.facts.single_file or BERT in twin_folder.parent.name:
        pytest.skip("no single file")
    if family.facts.flows:  # whose first projection is one in the real model, and diffusers takes it for granted
        projection = family.pipeline.text_encoder.text_projection.weight
        projection.set_value(paddle.eye(*projection.shape))
        family.save(tmp_path / "own", "safetensors")
        family = load_family(twin_folder := tmp_path / "own")
    family.save(tmp_path / "diffusers", "diffusers")
    export.main([f"--model_path={twin_folder}", "--format=single_file", f"--output={tmp_path / 'one.safetensors'}"])
    found = difference(
        outputs(family), in_torch(tmp_path / "diffusers", family, "--file", tmp_path / "one.safetensors")
    )
    print(f"{family.facts.pipeline}: {found:.1e}")
    assert found < CLOSE


@pytest.mark.parametrize("form", ["lora_diffusers", "lora_web_ui"])
def test_a_lora_draws_the_same_in_torch(form, twin_folder, in_torch, pictures, tmp_path):
    family = load_family(twin_folder)
    if family.facts.stochastic or form == "lora_web_ui" and not family.facts.lora_prefixes:
        pytest.skip("diffusers loads no such LoRA of it")
    family.save(tmp_path / "diffusers", "diffusers")
    # diffusers reads no LoRA of a BERT
    has_texts = family.facts.text_encoders and BERT not in twin_folder.parent.name
    texts = {"train_text_encoder": True} if has_texts else {}
    settings = dict(lora_rank=4, lora_targets=["all"], learning_rate=1e-2, **texts)
    train(command_line(twin_folder, pictures, tmp_path / "out", **settings))
    path = tmp_path / "lora.safetensors"
    export.main([f"--model_path={tmp_path / 'out'}", f"--format={form}", f"--output={path}"])
    ours = outputs(load_family(tmp_path / "out"))
    found = difference(ours, in_torch(tmp_path / "diffusers", family, "--lora", path))
    print(f"{family.facts.pipeline}: {found:.1e}")
    assert found < CLOSE and difference(ours, outputs(family)) > 1e-3
