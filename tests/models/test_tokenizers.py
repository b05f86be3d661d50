"""Tokenizers: the limit of their length, and the end of a prompt that does not fit."""

from types import SimpleNamespace

import pytest
from support.families import load_family

from dreambooth.models import tokenizers


@pytest.mark.parametrize("text, prompt, lost", [("clip", "a " * 40 + "red hat", "red hat"), ("bert", "狗" * 40, "狗")])
def test_the_part_of_a_prompt_that_is_cut_off_is_told(text, prompt, lost, twin, bert_twin):
    family = load_family({"clip": twin, "bert": bert_twin}[text])
    assert lost in tokenizers.truncated_text(family.tokenizer, prompt)
    assert tokenizers.truncated_text(family.tokenizer, "a sks") == ""


@pytest.mark.parametrize("length, limited", [(10**30, 32), (77, 32), (32, 32), (20, 20)])
def test_a_tokenizer_makes_at_most_as_many_tokens_as_the_text_encoder_has_positions(length, limited):
    tokenizer = SimpleNamespace(model_max_length=length, init_kwargs={})
    text_encoder = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=32))
    tokenizers.limit_tokens(tokenizer, text_encoder)
    assert tokenizer.model_max_length == limited
    assert tokenizer.init_kwargs == ({} if length == limited else {"model_max_length": 32})  # which is saved with it
