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


@pytest.mark.parametrize("subject, prior", [(4, 4), (1, 1), (3, 0), (5, 2), (1, 0)])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_parts_of_a_micro_batch_are_all_of_it(subject, prior, workers):
    examples = tuple(
        Example((0, slot, kind), 0, 0, VIEW) for kind, count in ((0, subject), (1, prior)) for slot in range(count)
    )
    batch = MicroBatch(examples, prior)
    parts = [batch.part((number, workers)) for number in range(workers)]
    assert sum((part.examples for part in parts), ()) == examples
    for part in parts:
        assert part.prior == sum(example.key[2] for example in part.examples)
        of_subject = len(part.examples) - part.prior
        assert part.shares == ((of_subject / subject, part.prior / max(1, prior)) if workers > 1 else (1, 1))
    sizes = [len(part.examples) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "value, field",
    [(MicroBatch(EXAMPLES), "prior"), (Concept("a dog", ()), "prompt"), (Picture(Path("a"), (1, 2), ""), "size")],
)
def test_nothing_changes_after_it_is_made(value, field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)
