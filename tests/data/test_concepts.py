"""Pictures, concepts, examples and micro-batches as values."""

import dataclasses
from pathlib import Path

import pytest

from dreambooth.data.concepts import Concept, Example, MicroBatch, Picture, View

VIEW = View(original=(30, 40), size=(16, 16))
EXAMPLES = (
    Example((3, 0, 0), picture=4, prompt=2, view=VIEW),
    Example((3, 1, 0), picture=0, prompt=0, view=VIEW),
    Example((3, 0, 1), picture=9, prompt=2, view=VIEW),
)


def test_a_micro_batch_lists_its_keys_in_order_and_its_prompts_once():
    batch = MicroBatch(EXAMPLES, prior=1)
    assert batch.keys == [(3, 0, 0), (3, 1, 0), (3, 0, 1)]
    assert batch.prompts == [0, 2]


@pytest.mark.parametrize(
    "value, field",
    [(MicroBatch(EXAMPLES), "prior"), (Concept("a dog", ()), "prompt"), (Picture(Path("a"), (1, 2), ""), "size")],
)
def test_nothing_changes_after_it_is_made(value, field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)
