"""What a saved folder says of itself, in each format."""

import json
import weakref
from typing import get_args

import numpy as np
import paddle
import pytest
from safetensors import safe_open
from support.families import load_family, load_pipeline
from support.weights import assert_same

from dreambooth.config.run_sections import SaveFormat
from dreambooth.models import saving


@pytest.fixture(scope="module")
def saved(twin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    for name in get_args(SaveFormat):
        saving.save(load_pipeline(twin), folder / name, name)
    return folder


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_files_of_each_format(saved):
    common = {"model_index.json", "scheduler/scheduler_config.json"}
    common |= {f"{part}/config.json" for part in ("unet", "vae", "text_encoder")}
    common |= {f"tokenizer/{name}" for name in ("merges.txt", "vocab.json", "tokenizer_config.json")}
    common |= {"tokenizer/special_tokens_map.json"}
    names = {
        "pdparams": ("model_state.pdparams", "model_state.pdparams"),
        "safetensors": ("diffusion_paddle_model.safetensors", "model.safetensors"),
        "diffusers": ("diffusion_pytorch_model.safetensors", "model.safetensors"),
    }
    for form, (of_network, of_text) in names.items():
        own = {f"unet/{of_network}", f"vae/{of_network}", f"text_encoder/{of_text}"}
        assert files(saved / form) == common | own


@pytest.mark.parametrize("model", ["twin", "velocity_twin", "unidiffuser_twin"])
@pytest.mark.parametrize("form", get_args(SaveFormat))
def test_weights_and_settings_are_those_that_the_library_writes(model, form, tmp_path, request):
    pipeline = load_pipeline(request.getfixturevalue(model))
    saving.save(pipeline, tmp_path / "mine", form)
    parts = [name for name, part in pipeline.components.items() if hasattr(part, "state_dict")]
    assert len(parts) >= 3
    for part in parts:
        theirs = tmp_path / "theirs" / part
        getattr(pipeline, part).save_pretrained(
            str(theirs), safe_serialization=form != "pdparams", to_diffusers=form == "diffusers"
        )
        assert_same(tmp_path / "mine" / part, theirs)
        if part in ("text_encoder", "image_encoder"):  # which the library writes, with a config of another kind
            continue
        own = json.loads((theirs / "config.json").read_text())
        kept = json.loads((tmp_path / "mine" / part / "config.json").read_text())
        assert own.items() >= kept.items() and own.keys() - kept.keys() <= saving._OWN_SETTINGS.keys()


@pytest.mark.parametrize("form", get_args(SaveFormat))
def test_one_weight_at_a_time_is_copied(form, twin, tmp_path, monkeypatch):
    pipeline, numpy, copies, most = load_pipeline(twin), paddle.Tensor.numpy, [], []

    def counting(tensor, *arguments):
        array = numpy(tensor, *arguments)
        copies.append(weakref.ref(array))
        most.append(sum(each() is not None for each in copies))
        return array

    monkeypatch.setattr(paddle.Tensor, "numpy", counting)
    saving.save(pipeline, tmp_path, form)
    networks = [part for part in pipeline.components.values() if hasattr(part, "state_dict")]
    assert len(most) >= sum(len(network.state_dict()) for network in networks)
    assert max(most) <= 2  # the next beside the last


def test_diffusers_finds_its_own_names(saved):
    index = json.loads((saved / "diffusers/model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline" and "_diffusers_version" in index
    assert "_ppdiffusers_version" not in index
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert index["tokenizer"] == ["transformers", "CLIPTokenizer"]
    for part in ("unet", "vae", "scheduler"):
        [settings] = (saved / "diffusers" / part).glob("*.json")
        assert "_diffusers_version" in json.loads(settings.read_text())
    for path in (saved / "diffusers").rglob("*.safetensors"):
        with safe_open(path, "np") as file:
            assert file.metadata() == {"format": "pt"}


def test_a_unidiffuser_as_diffusers_calls_its_parts(unidiffuser_twin, tmp_path):
    load_family(unidiffuser_twin).save(tmp_path / "saved", "diffusers")
    index = json.loads((tmp_path / "saved/model_index.json").read_text())
    assert index["clip_image_processor"] == ["transformers", "CLIPImageProcessor"] and "image_processor" not in index
    assert index["text_tokenizer"] == ["transformers", "GPT2Tokenizer"]
    assert (tmp_path / "saved/clip_image_processor/preprocessor_config.json").is_file()


@pytest.mark.parametrize("model", ["twin", "velocity_twin", "bert_twin", "unidiffuser_twin"])
def test_torchs_layout_is_the_one_that_the_library_converts_to(model, request):
    from ppdiffusers.models.modeling_pytorch_paddle_utils import convert_paddle_state_dict_to_pytorch

    for network in load_family(request.getfixturevalue(model)).networks().values():
        arrays = {name: weight.numpy() for name, weight in network.state_dict().items()}
        mine, theirs = saving.torch_arrays(network), convert_paddle_state_dict_to_pytorch(network, dict(arrays))
        assert mine.keys() == theirs.keys() and len(mine) > 20
        for name, value in mine.items():
            assert value.shape == theirs[name].shape and np.array_equal(value, theirs[name]), name
        lazy = saving.torch_layout(network)
        assert all(list(lazy[name].shape) == list(value.shape) for name, value in mine.items())
        assert any(not np.array_equal(value, arrays[name]) for name, value in mine.items())
