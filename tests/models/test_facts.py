"""The facts of families: what follows from them, and what a model that lacks parts has."""

import pytest

from dreambooth.models import registry
from dreambooth.models.family import facts

ROWS = tuple(registry.FAMILIES.values())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.pipeline)
def test_parts_are_networks_or_small_files(row):
    assert {*row.networks, *row.without_weights, *row.schedulers} == row.parts.keys()
    assert set(row.learners) <= set(row.networks) and row.denoiser == row.learners[0]
    assert set(row.lackable) <= row.parts.keys() and not set(row.lackable) & set(row.learners)
    assert set(row.tokenizers) <= set(row.without_weights) and len(row.tokenizers) == max(1, len(row.text_encoders))


def test_a_model_without_some_parts_has_the_other_facts():
    whole = facts.STABLE_DIFFUSION_3
    assert whole.without([]) is whole
    lacking = whole.without(["text_encoder_3", "tokenizer_3"])
    assert whole.parts.keys() - lacking.parts.keys() == {"text_encoder_3", "tokenizer_3"}
    assert list(lacking.parts) == [part for part in whole.parts if part in lacking.parts]  # of which hashes depend
    assert lacking.prompt_encoders == ("text_encoder", "text_encoder_2") and lacking.tokenizers == whole.tokenizers
    assert lacking.omitted == {"text_encoder_3": None, "tokenizer_3": None} and whole.omitted == {}
    assert lacking.learners == whole.learners and "text_encoder_3" not in lacking.networks
