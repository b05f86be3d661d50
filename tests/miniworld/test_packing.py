"""The packed model: its parts, its precision, and the stages that they come from."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.families import load_family, load_pipeline
from support.pretraining import run_pretraining
from support.weights import weights

from dreambooth.config.commands import DrawSettings
from dreambooth.drawing import sampling
from dreambooth.drawing.instruments.clip import Clip
from dreambooth.models import pipeline_folder
from dreambooth.system.errors import BadInput
from miniworld import networks, packing, world
from miniworld.detector import Detector


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a whole run."""
    return run_pretraining(tmp_path_factory.mktemp("pretrain"))


def test_the_packed_model_loads_and_draws(made):
    family = load_family(made / "packed/model")
    assert family.default_size == (64, 64)
    settings = DrawSettings(0, "picture", (64, 64), steps=2)
    requests = [("a photo of a dog", 0), ("a photo of sks cat at night", 1)]
    [picture, other] = sampling.draw(family, settings, requests)
    assert picture.size == (64, 64) and np.asarray(picture).std() > 1 and picture.tobytes() != other.tobytes()


def test_the_packed_model_has_the_parts_and_the_schedule_of_stable_diffusion(made):
    pipeline_folder.check(str(made / "packed/model"))
    index = json.loads((made / "packed/model/model_index.json").read_text())
    classes = {part: each[1] for part, each in index.items() if isinstance(each, list) and each[1]}
    assert classes == {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "PNDMScheduler",
    }
    pipeline = load_pipeline(made / "packed/model")
    packed, own = pipeline.scheduler.config, networks.scheduler().config
    assert {name: packed[name] for name in own if name[0] != "_"} == {name: own[name] for name in own if name[0] != "_"}
    assert pipeline.vae.config.scaling_factor == 1


def test_all_packed_weights_have_half_precision(made):
    parts = ("model/vae", "model/text_encoder", "model/unet", "clip", ".")
    parts += ("upscaler/vae", "upscaler/text_encoder", "upscaler/unet")
    for part in parts:
        assert {each.dtype for each in weights(made / "packed" / part).values()} == {np.dtype(np.float16)}, part
    files = [path for path in (made / "packed").rglob("*") if path.suffix in (".safetensors", ".pdparams")]
    sizes = {path: path.stat().st_size for path in files}
    of_upscaler = sum(size for path, size in sizes.items() if "upscaler" in path.parts)
    assert len(files) == len(parts) and of_upscaler < 10e6 and sum(sizes.values()) - of_upscaler < 25e6


@pytest.mark.parametrize("trained, packed", [("decoder", "model/vae"), ("unet", "model/unet"), ("image-tower", "clip")])
def test_the_packed_networks_come_from_the_last_stages(made, trained, packed):
    trained, packed = weights(made / "work" / trained), weights(made / "packed" / packed)
    assert trained.keys() == packed.keys()
    for name in trained:
        np.testing.assert_array_equal(packed[name], trained[name].astype(np.float16))


def test_the_text_encoder_is_clips_own_text_tower(made):
    """The library only warns where it finds no weights, and draws random ones."""
    clip, tower = weights(made / "work/clip"), weights(made / "packed/model/text_encoder")
    text = {name: each.astype(np.float16) for name, each in clip.items() if name.startswith("text_model.")}
    found = {name: each for name, each in tower.items() if each.dtype.kind == "f"}
    assert text.keys() == found.keys() and len(text) > 50
    assert all(np.array_equal(text[name], found[name]) for name in text)


def test_the_packed_clip_loads_and_has_its_trained_weights(made):
    clip = Clip(str(made / "packed/clip"))
    trained = weights(made / "work/image-tower")
    for name, each in clip.model.named_parameters():
        np.testing.assert_array_equal(each.numpy().ravel(), trained[name].astype(np.float16).ravel())
    [image] = clip.encode_pictures([world.picture(*world.thing(0, 0), 0, 0)])
    [text] = clip.encode_prompts(["a photo of a dog"])
    assert image.shape == text.shape == (networks.WIDTH,)


def test_clip_and_the_pipeline_have_the_same_tokenizer(made):
    clip, pipeline = Clip(str(made / "packed/clip")), load_pipeline(made / "packed/model")
    for text in ("a photo of sks dog at night", "a zebra"):
        assert clip.tokenizer(text).input_ids == pipeline.tokenizer(text).input_ids
    assert pipeline.tokenizer.model_max_length == clip.length == networks.TOKENS


def test_the_packed_detector_loads(made):
    packed, trained = (Detector.load(made / folder / "detector.safetensors") for folder in ("packed", "work"))
    for name, each in packed.state_dict().items():
        np.testing.assert_array_equal(each.numpy(), trained.state_dict()[name].numpy())


@pytest.fixture
def work(made, tmp_path):
    """A copy of the stages' results."""
    return shutil.copytree(made / "work", tmp_path / "work")


def test_an_unfinished_unet_is_packed_with_its_averaged_weights(work, tmp_path):
    shutil.rmtree(work / "unet")
    packing.pack(work, tmp_path / "packed")
    checkpoint = load_file(work / "unet-state/state.safetensors")
    for name, each in weights(tmp_path / "packed/model/unet").items():
        np.testing.assert_array_equal(each, checkpoint[f"{name}:average"].astype(np.float16))


def test_without_the_second_stages_the_first_ones_are_packed(work, tmp_path):
    for name in ("decoder", "image-tower"):
        shutil.rmtree(work / name)
    packing.pack(work, tmp_path / "packed")
    for trained, packed in (("vae", "model/vae"), ("clip", "clip")):
        trained, packed = weights(work / trained), weights(tmp_path / "packed" / packed)
        assert all(np.array_equal(packed[name], trained[name].astype(np.float16)) for name in trained)


def test_a_missing_unet_is_an_error_and_nothing_is_packed(work, tmp_path):
    for name in ("unet", "unet-state"):
        shutil.rmtree(work / name)
    with pytest.raises(BadInput, match=f"^--stages pack: {work} has no unet; add the stage unet$"):
        packing.pack(work, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_unpacked_networks_have_the_packed_weights_in_float32(made, tmp_path):
    (tmp_path / "work").mkdir()
    packing.unpack(made / "packed", tmp_path / "work")
    for part, packed in {"vae": "model/vae", "clip": "clip", "unet-start": "model/unet"}.items():
        unpacked, packed = weights(tmp_path / "work" / part), weights(made / "packed" / packed)
        assert unpacked.keys() == packed.keys()
        for name, each in unpacked.items():
            assert each.dtype == np.float32 and np.array_equal(each.ravel(), packed[name].astype(np.float32).ravel())
    Detector.load(tmp_path / "work/detector.safetensors")
    assert (tmp_path / "work/tokenizer/vocab.json").is_file()
