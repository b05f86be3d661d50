"""The Stable Diffusion family: prompts, what learns, what is freed, and the pipeline put together again."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from support.twins import build_twin
from support.weights import assert_same

from dreambooth.models import loading
from dreambooth.system.errors import BadInput


def test_every_verb_that_the_story_needs_is_there(twin):
    family = loading.load_model(str(twin))
    verbs = "encode_pictures encode_prompts draw_latents predict picture_part trained prepare_training forget_encoders"
    for verb in (*verbs.split(), "pipeline", "save", "lost_text", "check"):
        assert callable(getattr(family, verb))


def test_embeddings_are_those_of_the_librarys_own_pipeline(twin, bert_twin):
    from ppdiffusers import StableDiffusionPipeline

    for model, prompt in ((twin, "a photo of sks dog"), (bert_twin, "一张sks狗的照片")):
        family = loading.load_model(str(model))
        pipeline = StableDiffusionPipeline.from_pretrained(str(model), safety_checker=None)
        pipeline.tokenizer.model_max_length = 32
        expected = pipeline.encode_prompt(prompt, 1, False)[0].numpy()
        np.testing.assert_array_equal(family.encode_prompts([prompt])["hidden"].numpy(), expected)


def test_the_padding_token_counts_here_and_in_what_is_saved(bert_twin, tmp_path):
    """Paddle's embedding layer answers zeros for it, which is not what these models were trained with."""
    import paddle
    from ppdiffusers.transformers import BertModel

    shutil.copytree(bert_twin, tmp_path / "base")
    text_encoder = BertModel.from_pretrained(str(tmp_path / "base/text_encoder"))
    with paddle.no_grad():
        text_encoder.embeddings.word_embeddings.weight[0] = paddle.linspace(-1, 1, 32)
    text_encoder.save_pretrained(str(tmp_path / "base/text_encoder"), safe_serialization=True)
    family = loading.load_model(str(tmp_path / "base"))
    tokens = family.tokens(["狗"]).input_ids
    table = family.text_encoder.embeddings.word_embeddings
    np.testing.assert_array_equal(table(tokens).numpy()[0, -1], table.weight[0].numpy())
    assert np.abs(table.weight[0].numpy()).sum() > 1
    family.save(str(tmp_path / "saved"), "safetensors")
    plain = BertModel.from_pretrained(str(tmp_path / "saved/text_encoder"))
    np.testing.assert_array_equal(plain(tokens)[0].numpy(), family.encode_prompts(["狗"])["hidden"].numpy())


def test_an_attention_mask_goes_in_only_where_the_config_asks_for_one(bert_twin):
    family = loading.load_model(str(bert_twin))
    plain = family.encode_prompts(["狗"])["hidden"].numpy()
    family.text_encoder.config.use_attention_mask = True
    masked = family.encode_prompts(["狗"])["hidden"].numpy()
    assert np.abs(plain - masked).max() > 1e-3
    tokens = family.tokens(["狗"])
    expected = family.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0].numpy()
    np.testing.assert_array_equal(masked, expected)


@pytest.mark.parametrize("text, prompt, lost", [("clip", "a " * 40 + "red hat", "red hat"), ("bert", "狗" * 40, "狗")])
def test_the_part_of_a_prompt_that_is_cut_off_is_told(text, prompt, lost, twin, bert_twin):
    family = loading.load_model(str({"clip": twin, "bert": bert_twin}[text]))
    assert lost in family.lost_text(prompt)
    assert family.lost_text("a sks") == ""


def test_the_prompt_is_cut_at_the_tokenizers_own_length(tmp_path):
    family = loading.load_model(str(build_twin(tmp_path / "short", length=12)))
    assert family.tokens(["a photo of a very long dog"]).input_ids.shape == [1, 12]


def test_only_what_learns_takes_gradients_and_the_pooler_never(bert_twin):
    for learns in (False, True):
        family = loading.load_model(str(bert_twin), train_text_encoder=learns)
        family.prepare_training(gradient_checkpointing=False)
        assert all(not parameter.stop_gradient for parameter in family.unet.parameters())
        assert all(parameter.stop_gradient for parameter in family.vae.parameters())
        embedding = family.text_encoder.embeddings.word_embeddings.weight
        assert embedding.stop_gradient != learns
        assert all(parameter.stop_gradient for parameter in family.text_encoder.pooler.parameters())


def test_no_dropout_while_training(bert_twin):
    for checkpointing in (False, True):
        family = loading.load_model(str(bert_twin), train_text_encoder=True)
        family.prepare_training(gradient_checkpointing=checkpointing)
        one, other = (family.encode_prompts(["狗"])["hidden"].numpy() for _ in range(2))
        np.testing.assert_array_equal(one, other)


def test_what_is_freed_comes_back_from_disk_and_what_was_learned_stays(twin, tmp_path):
    import paddle

    family = loading.load_model(str(twin))
    family.prepare_training(gradient_checkpointing=True)
    with paddle.no_grad():
        family.unet.conv_in.bias.add_(paddle.ones([1]))
    learned = family.unet.conv_in.bias.numpy()
    family.forget_encoders()
    assert family.vae is None and family.text_encoder is None
    pipeline = family.pipeline()
    assert family.vae is None and pipeline.unet is family.unet and family.unet.training
    pipeline.save_pretrained(str(tmp_path / "whole"))
    assert_same(twin / "vae", tmp_path / "whole/vae")
    assert_same(twin / "text_encoder", tmp_path / "whole/text_encoder")
    assert (family.unet.conv_in.bias.numpy() == learned).all()


def test_the_scheduler_is_saved_as_it_was_even_where_the_library_amends_it(velocity_twin, tmp_path):
    family = loading.load_model(str(velocity_twin))
    family.save(str(tmp_path / "saved"), "safetensors")
    name = "scheduler/scheduler_config.json"
    assert (tmp_path / "saved" / name).read_text() == (velocity_twin / name).read_text()


def test_half_precision_on_disk_becomes_float32(twin, tmp_path):
    import paddle
    from ppdiffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(twin), safety_checker=None)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.to(dtype="float16")
    pipeline.save_pretrained(str(tmp_path / "half"))
    family = loading.load_model(str(tmp_path / "half"))
    for part in (family.unet, family.vae, family.text_encoder):
        assert {parameter.dtype for parameter in part.parameters()} == {paddle.float32}


def test_a_feature_extractor_is_kept_and_a_safety_checker_left_out(twin, tmp_path):
    from ppdiffusers.transformers import CLIPImageProcessor

    shutil.copytree(twin, tmp_path / "base")
    CLIPImageProcessor().save_pretrained(str(tmp_path / "base/feature_extractor"))
    index = json.loads((twin / "model_index.json").read_text())
    index["feature_extractor"] = ["paddlenlp.transformers", "CLIPFeatureExtractor"]  # as the hub's folders say
    (tmp_path / "base/model_index.json").write_text(json.dumps(index))
    loading.load_model(str(tmp_path / "base")).save(str(tmp_path / "saved"), "safetensors")
    assert (tmp_path / "saved/feature_extractor/preprocessor_config.json").is_file()
    assert not (tmp_path / "saved/safety_checker").exists()


def test_another_tokenizer_may_be_given(twin, bert_twin, tmp_path):
    longer = build_twin(tmp_path / "longer", length=64)
    family = loading.load_model(str(twin), tokenizer_name=str(longer / "tokenizer"))
    assert family.tokenizer.model_max_length == 32  # no more than the text encoder has positions
    with pytest.raises(BadInput, match="--tokenizer_name"):
        loading.load_model(str(twin), tokenizer_name=str(tmp_path / "nowhere"))


def test_a_size_that_the_vae_can_not_halve_is_refused(twin):
    family = loading.load_model(str(twin))
    family.factor = 16
    with pytest.raises(BadInput, match="--width 24: must be a multiple of 16"):
        family.check(SimpleNamespace(size=(32, 24)))


def test_a_prediction_that_is_not_known_is_refused(twin, tmp_path):
    shutil.copytree(twin, tmp_path / "sample")
    config = tmp_path / "sample/scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace('"epsilon"', '"sample"'))
    with pytest.raises(BadInput, match="predicts sample"):
        loading.load_model(str(tmp_path / "sample"))
