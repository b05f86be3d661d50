"""Tokenizers: the limit of their length, and the end of a prompt that does not fit."""

from types import SimpleNamespace

import pytest
from support.families import load_family
from support.twins import build_sd3

from dreambooth.models import tokenizers


@pytest.mark.parametrize("text, prompt, lost", [("clip", "a " * 40 + "red hat", "red hat"), ("bert", "狗" * 40, "狗")])
def test_the_part_of_a_prompt_that_is_cut_off_is_told(text, prompt, lost, twin, bert_twin):
    family = load_family({"clip": twin, "bert": bert_twin}[text])
    assert lost in tokenizers.truncated_text(family.tokenizers, prompt)
    assert tokenizers.truncated_text(family.tokenizers, "a sks") == ""


def test_the_shortest_tokenizer_cuts_a_prompt_and_t5_reads_on(tmp_path):
    family = load_family(build_sd3(tmp_path / "sd3"))
    family.tokenizers[1].model_max_length = 8
    [said] = tokenizers.truncations(family.tokenizers, ["a b c d e f red hat"] * 2, family.facts.reads_on)
    assert 'this part is for T5 alone: "red hat"' in said
    [said] = tokenizers.truncations(family.tokenizers, ["a b c d e f red hat"])
    assert 'this part is lost: "red hat"' in said
    assert load_family(build_sd3(tmp_path / "alone", t5=False)).facts.reads_on is False


@pytest.mark.parametrize("length, limited", [(10**30, 32), (77, 32), (32, 32), (20, 20)])
def test_a_tokenizer_makes_at_most_as_many_tokens_as_the_text_encoder_has_positions(length, limited):
    tokenizer = SimpleNamespace(model_max_length=length, init_kwargs={})
    text_encoder = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=32))
    tokenizers.limit_tokens(tokenizer, text_encoder)
    assert tokenizer.model_max_length == limited
    assert tokenizer.init_kwargs == ({} if length == limited else {"model_max_length": 32})  # which is saved with it
