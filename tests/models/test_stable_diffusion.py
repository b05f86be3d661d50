"""The Stable Diffusion family: prompts, what learns, what is freed, and the pipeline put together again."""

import shutil

import numpy as np
import pytest
from support.families import load_family
from support.twins import build_twin
from support.weights import assert_same

from dreambooth.system.errors import BadInput


def tokens_of(family, prompt):
    """The tokens of a prompt, filled up to the tokenizer's length."""
    length = family.tokenizers[0].model_max_length
    return family.tokenizers[0](
        [prompt], padding="max_length", max_length=length, return_attention_mask=True, return_tensors="pd"
    )


def test_embeddings_are_those_of_the_librarys_own_pipeline(twin, bert_twin):
    from ppdiffusers import StableDiffusionPipeline

    for model, prompt in ((twin, "a photo of sks dog"), (bert_twin, "一张sks狗的照片")):
        family = load_family(model)
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
    family = load_family(tmp_path / "base")
    tokens = tokens_of(family, "狗").input_ids
    table = family.pipeline.text_encoder.embeddings.word_embeddings
    np.testing.assert_array_equal(table(tokens).numpy()[0, -1], table.weight[0].numpy())
    assert np.abs(table.weight[0].numpy()).sum() > 1
    family.save(tmp_path / "saved", "safetensors")
    plain = BertModel.from_pretrained(str(tmp_path / "saved/text_encoder"))
    np.testing.assert_array_equal(plain(tokens)[0].numpy(), family.encode_prompts(["狗"])["hidden"].numpy())


def test_an_attention_mask_goes_in_only_where_the_config_asks_for_one(bert_twin):
    family = load_family(bert_twin)
    plain = family.encode_prompts(["狗"])["hidden"].numpy()
    family.pipeline.text_encoder.config.use_attention_mask = True
    masked = family.encode_prompts(["狗"])["hidden"].numpy()
    assert np.abs(plain - masked).max() > 1e-3
    tokens = tokens_of(family, "狗")
    expected = family.pipeline.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0].numpy()
    np.testing.assert_array_equal(masked, expected)


def test_the_prompt_is_cut_at_the_tokenizers_own_length(tmp_path):
    family = load_family(build_twin(tmp_path / "short", length=12))
    assert family.encode_prompts(["a photo of a very long dog"])["hidden"].shape == [1, 12, 32]


def test_only_what_learns_takes_gradients_and_the_pooler_never(bert_twin):
    for learns in (False, True):
        family = load_family(bert_twin, train_text_encoders=learns)
        family.prepare_training(gradient_checkpointing=False)
        assert all(not parameter.stop_gradient for parameter in family.pipeline.unet.parameters())
        assert all(parameter.stop_gradient for parameter in family.pipeline.vae.parameters())
        embedding = family.pipeline.text_encoder.embeddings.word_embeddings.weight
        assert embedding.stop_gradient != learns
        assert all(parameter.stop_gradient for parameter in family.pipeline.text_encoder.pooler.parameters())


def test_no_dropout_while_training(bert_twin):
    for checkpointing in (False, True):
        family = load_family(bert_twin, train_text_encoders=True)
        family.prepare_training(gradient_checkpointing=checkpointing)
        one, other = (family.encode_prompts(["狗"])["hidden"].numpy() for _ in range(2))
        np.testing.assert_array_equal(one, other)


def test_what_is_freed_comes_back_from_disk_and_what_was_learned_stays(twin, tmp_path):
    import paddle

    family = load_family(twin)
    family.prepare_training(gradient_checkpointing=True)
    with paddle.no_grad():
        family.pipeline.unet.conv_in.bias.add_(paddle.ones([1]))
    learned = family.pipeline.unet.conv_in.bias.numpy()
    family.free_encoders()
    assert family.pipeline.vae is None and family.pipeline.text_encoder is None
    pipeline = family.whole().pipeline
    assert family.pipeline.vae is None and pipeline.unet is family.pipeline.unet and family.pipeline.unet.training
    pipeline.save_pretrained(str(tmp_path / "whole"))
    assert_same(twin / "vae", tmp_path / "whole/vae")
    assert_same(twin / "text_encoder", tmp_path / "whole/text_encoder")
    assert (family.pipeline.unet.conv_in.bias.numpy() == learned).all()


def test_the_scheduler_is_saved_as_it_was_even_where_the_library_amends_it(velocity_twin, tmp_path):
    family = load_family(velocity_twin)
    family.save(tmp_path / "saved", "safetensors")
    name = "scheduler/scheduler_config.json"
    assert (tmp_path / "saved" / name).read_text() == (velocity_twin / name).read_text()


def test_a_size_that_the_vae_can_not_halve_is_refused(twin):
    family = load_family(twin)
    family.space.factor = 16
    with pytest.raises(BadInput, match="--width 24: must be a multiple of 16"):
        family.check_training((32, 24), gradient_checkpointing=False)
