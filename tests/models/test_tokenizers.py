"""Tokenizers: the limit of their length, and the end of a prompt that does not fit."""

import json
from types import SimpleNamespace

import pytest
from support.families import load_family
from support.twins import build_sd3, build_xl

from dreambooth.models import tokenizers


@pytest.mark.parametrize("text, prompt, lost", [("clip", "a " * 40 + "red hat", "red hat"), ("bert", "狗" * 40, "狗")])
def test_the_part_of_a_prompt_that_is_cut_off_is_told(text, prompt, lost, twin, bert_twin):
    family = load_family({"clip": twin, "bert": bert_twin}[text])
    assert [lost in part for part in tokenizers.truncated(family, prompt)] == [True, True]
    assert tokenizers.truncated(family, "a sks") == ("", "")


def test_t5_reads_on_where_the_clips_stop_but_not_for_ever(tmp_path):
    family = load_family(build_sd3(tmp_path / "sd3"))
    [said] = tokenizers.truncations(family, ["a b c d e f g h i j k l m red hat"] * 2)
    assert 'too long for the CLIPs; this part is for T5 alone: "' in said and 'hat" (of' in said
    long = "a b c d " * 200 + "red hat"
    first, second = tokenizers.truncations(family, [long])
    assert "this part is for T5 alone" in first and "this part is lost" in second and "red hat" in second
    alone = load_family(build_sd3(tmp_path / "alone", t5=False))
    [said] = tokenizers.truncations(alone, ["a b c d e f g h i j k l m red hat"])
    assert 'too long for the tokenizer; this part is lost: "' in said and 'hat" (of' in said


@pytest.mark.parametrize("build", [build_xl, build_sd3])
def test_the_shortest_tokenizer_limits_all(build, tmp_path):
    """Their encodings lie beside each other, in training and in the library's own drawing."""
    folder = build(tmp_path / "twin")
    path = folder / "tokenizer_2/tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 8}))
    family = load_family(folder)
    assert [each.model_max_length for each in family.tokenizers] == [8, 8]
    assert "hat" in tokenizers.truncated(family, "a b c d e f red hat")[0]
    hidden = family.encode_prompts(["a sks dog"])["hidden"]
    assert hidden.shape[1] == (8 if build is build_xl else 8 + 256)
    assert family.prompt_arguments(["a sks dog"], None, True)["prompt_embeds"].shape[1] == hidden.shape[1]


@pytest.mark.parametrize("length, limited", [(10**30, 32), (77, 32), (32, 32), (20, 20)])
def test_a_tokenizer_makes_at_most_as_many_tokens_as_the_text_encoder_has_positions(length, limited):
    tokenizer = SimpleNamespace(model_max_length=length, init_kwargs={})
    text_encoder = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=32))
    tokenizers.limit_tokens(tokenizer, text_encoder)
    assert tokenizer.model_max_length == limited
    assert tokenizer.init_kwargs == ({} if length == limited else {"model_max_length": 32})  # which is saved with it
