"""Loading a model: in float32, without the safety checker, with another tokenizer; or its tokenizer alone."""

import json
import shutil

import numpy as np
import pytest
from support.families import load_family
from support.twins import build_twin

from dreambooth.models import loading
from dreambooth.system.errors import BadInput


@pytest.mark.parametrize("model", ["twin", "bert_twin", "unidiffuser_twin"])
def test_the_tokenizer_alone_is_the_one_that_reads_the_prompts(model, request):
    folder = request.getfixturevalue(model)
    [alone] = loading.load_tokenizers(loading.Source(str(folder)))
    assert alone("a sks dog").input_ids == load_family(folder).tokenizers[0]("a sks dog").input_ids


def test_what_can_not_be_loaded_is_told_in_one_line(twin, tmp_path):
    shutil.copytree(twin, tmp_path / "copy")
    (tmp_path / "copy/unet/config.json").write_text('{"in_channels": "many"}')
    with pytest.raises(BadInput, match=rf"^--model_path {tmp_path}/copy: it can't be loaded \(.*\)$"):
        loading.load_family(loading.Source(str(tmp_path / "copy")), "--model_path")


def test_half_precision_on_disk_becomes_float32(twin, tmp_path):
    import paddle
    from ppdiffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(twin), safety_checker=None)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.to(dtype="float16")
    pipeline.save_pretrained(str(tmp_path / "half"))
    family = load_family(tmp_path / "half")
    for part in (family.pipeline.unet, family.pipeline.vae, family.pipeline.text_encoder):
        assert {parameter.dtype for parameter in part.parameters()} == {paddle.float32}


def test_a_feature_extractor_is_kept_and_a_safety_checker_left_out(twin, tmp_path):
    from ppdiffusers.transformers import CLIPImageProcessor

    shutil.copytree(twin, tmp_path / "base")
    CLIPImageProcessor().save_pretrained(str(tmp_path / "base/feature_extractor"))
    index = json.loads((twin / "model_index.json").read_text())
    index["feature_extractor"] = ["paddlenlp.transformers", "CLIPFeatureExtractor"]  # as the hub's folders say
    (tmp_path / "base/model_index.json").write_text(json.dumps(index))
    load_family(tmp_path / "base").save(tmp_path / "saved", "safetensors")
    assert (tmp_path / "saved/feature_extractor/preprocessor_config.json").is_file()
    assert not (tmp_path / "saved/safety_checker").exists()


def test_another_tokenizer_may_be_given(twin, bert_twin, tmp_path):
    longer = build_twin(tmp_path / "longer", length=64)
    family = load_family(twin, tokenizer_name=str(longer / "tokenizer"))
    assert family.tokenizers[0].model_max_length == 32  # no more than the text encoder has positions
    with pytest.raises(BadInput, match="--tokenizer_name"):
        load_family(twin, tokenizer_name=str(tmp_path / "nowhere"))


def test_networks_in_half_precision_are_loaded_again_to_be_merged_into(twin):
    """The stand-in for half precision is double: the CPU computes in no other."""
    family, before = load_family(twin), load_family(twin)
    loading.to_half(family.learners(), "float64")
    assert {str(each.dtype) for each in family.denoiser.parameters()} == {"paddle.float64"}
    again = loading.reload_halves(family)
    assert {str(each.dtype) for each in family.denoiser.parameters()} == {"paddle.float64"}
    for name, value in before.denoiser.state_dict().items():
        assert np.array_equal(again.denoiser.state_dict()[name].numpy(), value.numpy())
    assert again.pipeline.vae is family.pipeline.vae
    assert loading.reload_halves(before).denoiser is before.denoiser


def test_a_family_draws_in_another_precision(twin):
    from dreambooth.config.commands import DrawSettings
    from dreambooth.drawing import sampling

    def picture(kind):
        family = load_family(twin)
        if kind:
            loading.to_half(family.networks(), kind)
        [drawn] = sampling.draw(family, DrawSettings(0, "picture", (32, 32), 4), [("sks", 0)])
        return np.asarray(drawn).astype(int)

    assert abs(picture("float64") - picture(None)).max() <= 1
