"""The contract of the families: what training, drawing and saving rely on, for the twin of each row of the registry."""

import ast
import inspect
import re
from typing import get_args

import numpy as np
import paddle
import pytest
from PIL import Image
from support.commands import ROOT
from support.families import load_family
from support.slowly import mostly_slow
from support.twins import BUILDERS
from support.weights import assert_same

from dreambooth.config.commands import DrawSettings
from dreambooth.config.learning_sections import LoraSettings
from dreambooth.config.run_sections import SaveFormat
from dreambooth.data.concepts import View
from dreambooth.drawing import sampling
from dreambooth.drawing.inputs.starts import Start
from dreambooth.files import lora
from dreambooth.models import loading, pipeline_folder, registry, saving, schedulers
from dreambooth.models.family.base import Family
from dreambooth.system import processes
from dreambooth.system.errors import BadInput
from dreambooth.training.lora.adapters import Adapters

PROMPTS = ["a photo of sks dog", "a dog", "snow"]
REQUESTS = [("a dog", 0), ("a photo of sks dog", 1), ("a dog", 2)]
# pipeline -> the flags, and the schedulers, that its family refuses; a row without an entry refuses nothing
REFUSED = {
    "UniDiffuserPipeline": {"--gradient_checkpointing", "--negative_prompt", "euler", "euler_a", "lms"},
    "StableDiffusion3Pipeline": {*schedulers.SCHEDULERS},
    "IFPipeline": {"euler", "euler_a", "lms", "pndm"},
    "IFSuperResolutionPipeline": {"euler", "euler_a", "lms", "pndm"},
}


def refuses(family, choice):
    return choice in REFUSED.get(family.facts.pipeline, ())


@pytest.fixture(scope="module", params=registry.FAMILIES)
def twin_folder(request, tmp_path_factory):
    assert request.param in BUILDERS, f"tests/support/twins.py has no twin of {request.param}"
    return BUILDERS[request.param](tmp_path_factory.mktemp("contract") / "twin")


@pytest.fixture
def family(twin_folder):
    return load_family(twin_folder)


@pytest.fixture(params=[False, True], ids=["denoiser", "text-encoder"])
def trainable(twin_folder, request):
    """The family with and without a text encoder that trains."""
    facts = load_family(twin_folder).facts
    if request.param and not facts.text_encoders:
        with pytest.raises(BadInput, match="^--train_text_encoder: "):
            load_family(twin_folder, train_text_encoders=True)
        pytest.skip("its text encoder does not train")
    family = load_family(twin_folder, train_text_encoders=request.param)
    family.prepare_training(gradient_checkpointing=False)
    return family


def load_with_all_that_trains(folder):
    return load_family(folder, train_text_encoders=bool(load_family(folder).facts.text_encoders))


@pytest.fixture
def pixels(family):
    return pixels_of(family, 2)


def pixels_of(family, count):
    numbers = np.random.default_rng(0).uniform(-1, 1, (count, 3, *family.default_size))
    return paddle.to_tensor(((numbers + 1) * 127.5).round() / 127.5 - 1, dtype="float32")


def arrays(tensors):
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def predict(family, seed=0, count=2):
    """A prediction for noise and the first prompts; its loss is taken of the learned part."""
    encoding = family.encode_pictures(pixels_of(family, count))
    clean = family.latents(encoding, paddle.zeros_like(encoding["mean"]))
    noise = paddle.to_tensor(np.random.default_rng(seed).standard_normal(clean.shape).astype("float32"))
    views = [View(family.default_size, family.default_size)] * count
    conditioning = family.conditioning(family.encode_prompts(PROMPTS[:count]), encoding, views)
    return family.predict(clean + noise, paddle.to_tensor([7, 900][:count]), conditioning)


def test_every_row_has_a_twin():
    assert registry.FAMILIES.keys() == BUILDERS.keys()


def test_every_tensor_of_prompts_has_a_row_for_each_of_them(family):
    together = arrays(family.encode_prompts(PROMPTS))
    assert "hidden" in together and all(len(array) == 3 for array in together.values())
    for row, prompt in enumerate(PROMPTS):
        alone = arrays(family.encode_prompts([prompt]))
        assert alone.keys() == together.keys()
        for name, array in alone.items():
            assert array.shape == (1, *together[name].shape[1:])
            np.testing.assert_allclose(array[0], together[name][row], atol=1e-5)
    assert np.abs(together["hidden"][0] - together["hidden"][1]).max() > 1e-3


def test_every_tensor_of_pictures_has_a_row_for_each_of_them(family, pixels):
    together = arrays(family.encode_pictures(pixels))
    assert together["mean"].shape == together.get("std", together["mean"]).shape
    assert all(len(array) == 2 for array in together.values())
    for row in range(2):
        for name, array in arrays(family.encode_pictures(pixels[row : row + 1])).items():
            np.testing.assert_allclose(array[0], together[name][row], atol=1e-4)


def test_latents_lie_about_the_mean_as_far_as_their_noise(family, pixels):
    encoding = family.encode_pictures(pixels)
    middle, above, below = (
        family.latents(encoding, paddle.full_like(encoding["mean"], value)).numpy() for value in (0.0, 1.0, -1.0)
    )
    np.testing.assert_allclose(above - middle, middle - below, atol=1e-5)
    assert (np.abs(above - middle).max() > 1e-6) == ("std" in encoding)
    assert len(middle) == 2 and family.scaled_for_loss(paddle.to_tensor(middle)).shape[0] == 2


def test_a_prediction_has_the_shape_of_the_latents_and_depends_on_all_that_goes_in(family, pixels):
    encoding = family.encode_pictures(pixels)
    noisy = family.latents(encoding, paddle.ones_like(encoding["mean"]))
    views = [View(family.default_size, family.default_size)] * 2

    def predict(prompts, steps, latents=noisy):
        conditioning = family.conditioning(family.encode_prompts(prompts), encoding, views)
        assert isinstance(conditioning, dict) and all(tensor.shape[0] == 2 for tensor in conditioning.values())
        with paddle.no_grad():
            return family.predict(latents, paddle.to_tensor(steps), conditioning)

    one = predict(PROMPTS[:2], [7, 900])
    assert one.shape == noisy.shape
    assert family.scaled_for_loss(one).shape == family.scaled_for_loss(noisy).shape
    for other in (
        predict(PROMPTS[1:], [7, 900]),
        predict(PROMPTS[:2], [8, 300]),
        predict(PROMPTS[:2], [7, 900], -noisy),
    ):
        changed = np.abs((one - other).numpy()).reshape([2, -1]).max(1)
        assert (changed > 0).all()
    np.testing.assert_array_equal(one.numpy(), predict(PROMPTS[:2], [7, 900]).numpy())


# training


def test_gradients_flow_into_what_trains_and_nothing_else(trainable):
    facts = trainable.facts
    expected = {facts.denoiser, *(facts.text_encoders if trainable.train_text_encoders else ())}
    assert trainable.trained().keys() == trainable.learners().keys() == expected
    assert next(iter(trainable.learners())) == facts.denoiser
    trainable.scaled_for_loss(predict(trainable)).square().mean().backward()
    for part, network in trainable.networks().items():
        open_ones = {name: each for name, each in network.named_parameters() if not each.stop_gradient}
        assert bool(open_ones) == (part in expected)
        empty = [name for name, each in open_ones.items() if each.grad is None or not float(each.grad.abs().max())]
        assert not empty, f"AdamW would decay {part}.{empty}"
        assert not network.training


def test_gradient_checkpointing_changes_no_gradient_or_is_refused(twin_folder):
    gradients = []
    for checkpointing in (False, True):
        family = load_with_all_that_trains(twin_folder)
        if checkpointing and refuses(family, "--gradient_checkpointing"):
            with pytest.raises(BadInput, match="^--gradient_checkpointing: "):
                family.check_training(family.default_size, checkpointing)
            return
        family.check_training(family.default_size, checkpointing)
        family.prepare_training(checkpointing)
        family.scaled_for_loss(predict(family)).square().mean().backward()
        named = [each for network in family.learners().values() for each in network.parameters()]
        gradients.append([each.grad.numpy() for each in named if not each.stop_gradient])
    for one, other in zip(*gradients):  # Paddle 2.6.2 adds up the gradients of a shared input in another order
        assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()


def test_a_size_that_does_not_fit_is_refused_by_its_flag(family):
    height, width = family.default_size
    family.check_training((height, width), gradient_checkpointing=False)
    with pytest.raises(BadInput, match=f"^--height {height + 1}: "):
        family.check_training((height + 1, width), gradient_checkpointing=False)
    with pytest.raises(BadInput, match=f"^--width {width + 1}: "):
        family.check_training((height, width + 1), gradient_checkpointing=False)


@pytest.mark.parametrize("pictures", mostly_slow([True, False]))
def test_what_is_freed_is_loaded_again_and_what_trains_is_shared(trainable, twin_folder, tmp_path, pictures):
    facts, networks = trainable.facts, trainable.networks()
    trainable.free_encoders(pictures)
    freed = {*(facts.picture_encoders if pictures else ())}
    freed |= set() if trainable.train_text_encoders else set(facts.prompt_encoders)
    assert networks.keys() - trainable.networks().keys() == freed
    assert all(getattr(trainable.pipeline, part) is None for part in freed)
    with paddle.no_grad():
        parameter = next(iter(trainable.denoiser.parameters()))
        parameter.set_value(parameter + 1)
    whole = trainable.whole()
    assert whole.networks().keys() == networks.keys() and trainable.networks().keys() == networks.keys() - freed
    assert all(whole.networks()[part] is network for part, network in trainable.networks().items())
    assert whole.pipeline.scheduler.config == load_family(twin_folder).pipeline.scheduler.config
    trainable.save(tmp_path / "saved", "safetensors")
    for part in freed:
        assert_same(tmp_path / "saved" / part, twin_folder / part)
    again = load_family(tmp_path / "saved").denoiser.state_dict()
    for name, value in trainable.denoiser.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), again[name].numpy())


def test_another_scheduler_is_that_of_the_copy_alone(family):
    own = family.pipeline.scheduler
    copy = family.whole("ddim")
    expected = schedulers.FLOW if family.facts.flows else "DDIMScheduler"
    assert type(copy.pipeline.scheduler).__name__ == expected and family.pipeline.scheduler is own
    assert copy.denoiser is family.denoiser


# drawing


def settings_of(family, **changes):
    return DrawSettings(**{"seed": 3, "purpose": "picture", "size": family.default_size, "steps": 2, **changes})


def start_of(family):
    """A small picture, for a family that enlarges."""
    if not family.facts.enlarges:
        return None
    height, width = (side // family.enlargement for side in family.default_size)
    return Start(Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)))


def draw(family, requests, **changes):
    return [
        np.asarray(picture).astype(int)
        for picture in sampling.draw(family, settings_of(family, **changes), requests, start_of(family))
    ]


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_a_picture_depends_on_nothing_that_is_drawn_beside_it(family, guidance):
    together = draw(family, REQUESTS, guidance=guidance)
    assert all(picture.shape == (*family.default_size, 3) and picture.std() > 1 for picture in together)
    assert (together[0] != together[2]).any() and (together[0] != together[1]).any()
    for request, picture in zip(REQUESTS[::-1], together[::-1]):
        assert np.array_equal(draw(family, [request], guidance=guidance)[0], picture)


def test_a_batch_draws_what_single_pictures_draw_up_to_rounding(family, monkeypatch):
    alone = draw(family, REQUESTS)
    monkeypatch.setattr(processes, "is_on_gpu", lambda: True)  # there, pictures are drawn in batches
    for one, other in zip(draw(family, REQUESTS, batch_size=2), alone, strict=True):
        assert np.abs(one - other).max() <= 2


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_every_scheduler_draws_or_is_refused_by_its_flag(family, name):
    choice = {"scheduler": name, "scheduler_flag": "--prior_scheduler"}
    if refuses(family, name):
        with pytest.raises(BadInput, match=f"^--prior_scheduler {re.escape(name)}: .*it can with "):
            draw(family, REQUESTS[:1], **choice)
    else:
        assert draw(family, REQUESTS[:1], **choice)[0].std() > 1


def test_more_steps_than_the_model_has_are_refused_by_their_flag(family):
    with pytest.raises(BadInput, match="^--prior_inference_steps 1001: the model has 1000$"):
        family.check_drawing(settings_of(family, from_picture=True, steps=1001, steps_flag="--prior_inference_steps"))


def test_a_negative_prompt_counts_or_is_refused(family):
    if refuses(family, "--negative_prompt"):
        with pytest.raises(BadInput, match="^--negative_prompt: "):
            draw(family, REQUESTS[:1], negative_prompt="snow")
    else:
        [picture] = draw(family, REQUESTS[:1], negative_prompt="snow")
        assert (picture != draw(family, REQUESTS[:1])[0]).any()


def test_a_size_that_can_not_be_drawn_is_refused(family):
    height, width = family.default_size
    with pytest.raises(BadInput, match="--height"):
        family.check_drawing(settings_of(family, from_picture=True, size=(height + 1, width)))
    with pytest.raises(BadInput, match="--width"):
        family.check_drawing(settings_of(family, from_picture=True, size=(height, 0)))


# files


@pytest.mark.parametrize("save_format", get_args(SaveFormat))
def test_every_format_loads_again_with_the_same_weights_and_scheduler(family, twin_folder, save_format, tmp_path):
    family.save(tmp_path / "saved", save_format)
    pipeline_folder.check(str(tmp_path / "saved"))
    again = load_family(tmp_path / "saved")
    assert type(again) is type(family) and again.networks().keys() == family.networks().keys()
    for part, network in family.networks().items():
        loaded = again.networks()[part].state_dict()
        for name, value in network.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), loaded[name].numpy())
    assert np.array_equal(draw(again, REQUESTS[:1])[0], draw(family, REQUESTS[:1])[0])
    if save_format != "diffusers":  # whose settings name another version
        scheduler = "scheduler/scheduler_config.json"
        own = (twin_folder / scheduler).read_text().replace("learned_range", "fixed_small")  # which does not train
        assert (tmp_path / "saved" / scheduler).read_text() == own


def test_one_file_is_written_where_the_facts_say_so(family):
    if family.facts.single_file:
        weights = saving.single_file_weights(family)
        assert len(weights) > 50 and all(isinstance(value, np.ndarray) for value in weights.values())
    else:
        with pytest.raises(BadInput, match=f"^--format single_file: .* no place for {family.facts.pipeline}"):
            saving.single_file_weights(family)


def test_a_lora_in_a_file_is_the_one_that_was_trained(twin_folder, tmp_path):
    family = load_with_all_that_trains(twin_folder)
    base = predict(family).numpy()
    settings = LoraSettings(lora_rank=2, lora_alpha=3.0)
    family.adapters = Adapters(family.learners(), family.facts.denoiser, settings, seed=0)
    assert family.trained().keys() == family.learners().keys()
    assert all(family.trained()[part] is not network for part, network in family.learners().items())
    for part, adapter in family.adapters.items():
        for name, each in adapter.named_parameters():
            numbers = np.random.default_rng(len(part) + len(name)).standard_normal(each.shape)
            each.set_value(0.2 * numbers.astype("float32"))
    trained = predict(family).numpy()
    assert np.abs(trained - base).max() > 1e-2
    forms = ["paddle", "diffusers", *(["web_ui"] if family.facts.lora_prefixes else [])]
    for form in forms:
        file = tmp_path / f"{form}.safetensors"
        facts = family.facts
        lora.write(file, family.adapters.matrices(), form, facts.lora_prefixes, facts.text_encoders)
        merged = load_family(twin_folder)
        loading.merge_lora(merged, file, 1.0, "--lora")
        np.testing.assert_allclose(predict(merged).numpy(), trained, atol=2e-4)


# nothing of a family stands anywhere else

ROOMS = ("dreambooth", "miniworld", "benchmarks")
HOMES = ("dreambooth/models/registry.py", "dreambooth/models/families/", "dreambooth/models/family/")
# what makes a model itself, or measures the libraries without the project
ALLOWED = {
    "dreambooth/files/single_file.py": {"transformer"},  # a name of OpenCLIP's
    "dreambooth/system/patches/layers.py": {"SD3Transformer2DModel"},  # which it repairs
    "dreambooth/system/patches/storage.py": {"RobertaSeriesModelWithTransformation"},  # so too
    "miniworld/networks.py": {
        *("AutoencoderKL", "UNet2DConditionModel", "StableDiffusionPipeline", "StableDiffusionUpscalePipeline"),
    },
    "miniworld/upscaling.py": {
        *("AutoencoderKL", "CLIPTextModel", "UNet2DConditionModel"),
        *("unet", "vae", "text_encoder"),
    },
    "miniworld/dataset.py": {"CLIPTextModel"},
    "miniworld/stages.py": {"AutoencoderKL", "unet", "vae"},
    "miniworld/pretrain.py": {"unet", "vae"},
    "miniworld/packing.py": {
        *("AutoencoderKL", "CLIPTextModel", "UNet2DConditionModel"),
        *("unet", "vae", "text_encoder"),
    },
    "miniworld/examine.py": {"vae"},
    "benchmarks/startup.py": {"CLIPTextModel", "StableDiffusionPipeline"},
    "benchmarks/memory.py": {"UNet2DConditionModel", "unet"},
    "benchmarks/subjects.py": {
        *("AutoencoderKL", "CLIPTextModel", "CLIPTextModelWithProjection"),
        *("StableDiffusionXLPipeline", "UNet2DConditionModel"),
    },
}


def words_of_families():
    """The names of the families' classes, and of their networks' parts."""
    rows = registry.FAMILIES.values()
    networks = {name for facts in rows for part in facts.networks for name in facts.parts[part]}
    constants = {name for name, value in vars(registry).items() if isinstance(value, str) and value in networks}
    classes = registry.FAMILIES.keys() | networks | constants | {facts.family.split(":")[1] for facts in rows}
    return classes, {part for facts in rows for part in facts.networks}


def names_in(source):
    """The words of families in a module's code: in strings, attributes and imports, but for docstrings.

    A variable or a parameter may have the name of a part.
    """
    classes, parts = words_of_families()
    tree, found = ast.parse(source), set()
    bodies = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = [node for node in ast.walk(tree) if isinstance(node, bodies) and ast.get_docstring(node) is not None]
    docstrings = {node.body[0].value for node in documented}
    for node in ast.walk(tree):
        if node in docstrings:
            continue
        banned = classes | parts if isinstance(node, (ast.Constant, ast.Attribute)) else classes
        for field in ("id", "attr", "name", "asname", "arg", "module", "value"):
            word = getattr(node, field, None)
            found |= banned & set(re.findall(r"\w+", word)) if isinstance(word, str) else set()
    return found


def test_no_other_module_names_a_familys_classes_or_parts():
    files = [*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]
    assert len(files) > 70
    names = {file.relative_to(ROOT).as_posix(): names_in(file.read_text(encoding="utf-8")) for file in files}
    assert {file: found for file, found in names.items() if found and not file.startswith(HOMES)} == ALLOWED


@pytest.mark.parametrize(
    "source, found",
    [
        ("from ppdiffusers import AutoencoderKL as Codec", {"AutoencoderKL"}),
        ("print(f'{name}: no BertModel for you')", {"BertModel"}),
        ("if kind == registry.CLIP_TEXT_ENCODER: pass", {"CLIP_TEXT_ENCODER"}),
        ("network = pipeline.unet", {"unet"}),
        ("layers = [name.startswith('text_encoder.') for name in names]", {"text_encoder"}),
        ("class UniDiffuser: pass", {"UniDiffuser"}),
        ("def limit(text_encoder):\n    'Limit as the unet of UniDiffuser.'\n    return text_encoder", set()),
        ("print(config.train_text_encoder, 'text_encoder_lr')", set()),
    ],
)
def test_the_search_for_names_finds_words_in_code(source, found):
    assert names_in(source) == found


def test_the_base_class_stays_small():
    lines = inspect.getsource(inspect.getmodule(Family)).splitlines()
    methods = [name for name, each in vars(Family).items() if inspect.isfunction(each) and name[0] != "_"]
    assert len(lines) <= 220 and len(methods) <= 20 and len(Family.__abstractmethods__) == 2
