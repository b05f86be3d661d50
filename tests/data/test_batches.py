"""Which examples go into which micro-batch."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dreambooth.config.sections import OptimizerSettings, PictureSettings
from dreambooth.data.batches import Batches
from dreambooth.data.concepts import Concept, Picture


def made_up(name, count):
    return tuple(Picture(Path(f"{name}{number}.png"), (8, 8), "") for number in range(count))


DOG = Concept("a photo of sks dog", made_up("dog", 5), "a photo of a dog", made_up("dogs", 7))
CAT = Concept("a photo of zwx cat", made_up("cat", 2), "a photo of a cat", made_up("cats", 3))
DOG_ALONE = dataclasses.replace(DOG, class_pictures=())  # without prior preservation


def batches(*concepts, batch=4, accumulation=1, random_flip=False, seed=0, rank=0, processes=1, dropout=0.0):
    optimizer = OptimizerSettings(train_batch_size=batch, gradient_accumulation_steps=accumulation)
    return Batches(concepts, optimizer, PictureSettings(random_flip=random_flip), seed, rank, processes, dropout)


def pictures_of(batch):
    return [example.picture for example in batch.examples]


def flips_of(batch):
    return [example.view.flip for example in batch.examples]


def update(number, batch, accumulation, processes):
    """All examples of an update, whichever process and micro-batch they are in."""
    split = dict(batch=batch, accumulation=accumulation, processes=processes, random_flip=True)
    each = [
        batches(DOG, rank=rank, **split).micro_batch(number, micro)
        for rank in range(processes)
        for micro in range(accumulation)
    ]
    assert all(micro_batch.prior == batch for micro_batch in each)
    return sorted(example for micro_batch in each for example in micro_batch.examples)


@pytest.mark.parametrize("split", [(2, 2, 1), (1, 4, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4)])
def test_an_update_has_the_same_examples_however_it_is_split(split):
    for number in range(6):
        whole = update(number, 4, 1, 1)
        assert len(whole) == len(set(whole)) == 8
        assert update(number, *split) == whole


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 8])
def test_every_five_examples_in_a_row_are_all_five_pictures(batch):
    examples = batches(DOG_ALONE, batch=batch)
    row = [picture for number in range(20) for picture in pictures_of(examples.micro_batch(number, 0))]
    turns = [row[first : first + 5] for first in range(0, len(row) - 4, 5)]
    assert all(sorted(turn) == [0, 1, 2, 3, 4] for turn in turns)
    assert turns[0] != turns[1] and len({tuple(turn) for turn in turns}) >= 4


def test_another_seed_gives_another_order():
    orders = [
        [pictures_of(batches(DOG_ALONE, batch=1, seed=seed).micro_batch(number, 0))[0] for number in range(20)]
        for seed in (0, 1)
    ]
    assert orders[0] != orders[1]


def test_as_many_class_pictures_come_after_the_subjects():
    examples = batches(DOG, batch=3)
    for number in range(10):
        batch = examples.micro_batch(number, 0)
        assert batch.keys == [(number, slot, kind) for kind in (0, 1) for slot in range(3)] and batch.prior == 3
        names = [examples.pictures[picture].path.name for picture in pictures_of(batch)]
        assert all(name in {picture.path.name for picture in DOG.pictures} for name in names[:3])
        assert all(name in {picture.path.name for picture in DOG.class_pictures} for name in names[3:])


def test_class_pictures_have_turns_of_their_own():
    examples = batches(DOG, batch=1)
    drawn = [pictures_of(examples.micro_batch(number, 0))[1] for number in range(14)]
    assert sorted(drawn[:7]) == sorted(drawn[7:]) == list(range(5, 12))


def test_without_class_pictures_every_example_is_the_subjects():
    examples = batches(DOG_ALONE)
    assert examples.prompts == ["a photo of sks dog"] and len(examples.pictures) == 5
    batch = examples.micro_batch(0, 0)
    assert len(batch.examples) == 4 and batch.prior == 0


def test_each_picture_of_several_concepts_keeps_its_own_prompt():
    examples = batches(DOG, CAT, batch=2)
    expected = {picture: prompt for concept in (DOG, CAT) for pictures, prompt in
                ((concept.pictures, concept.prompt), (concept.class_pictures, concept.class_prompt))
                for picture in pictures}  # fmt: skip
    seen = set()
    for number in range(20):
        for example in examples.micro_batch(number, 0).examples:
            picture = examples.pictures[example.picture]
            assert examples.prompts[example.prompt] == expected[picture]
            seen.add(picture)
    assert seen == set(expected) and len(examples.prompts) == 4


def test_a_prompt_that_two_concepts_share_is_kept_once():
    other = Concept("a photo of zwx dog", made_up("other", 2), "a photo of a dog", made_up("others", 2))
    examples = batches(DOG, other)
    assert examples.prompts == ["a photo of sks dog", "a photo of a dog", "a photo of zwx dog"]


def test_pictures_are_mirrored_only_with_random_flips_and_then_about_half_of_them():
    for random_flip in (False, True):
        examples = batches(DOG, random_flip=random_flip)
        flips = np.array([flips_of(examples.micro_batch(number, 0)) for number in range(100)])
        for half in (flips[:, :4], flips[:, 4:]):
            assert 150 < half.sum() < 250 if random_flip else half.sum() == 0
    assert 250 < sum(one != other for row in flips for one, other in pairwise(row)) < 450  # each by itself


def test_a_picture_is_not_always_mirrored_alike():
    examples = batches(DOG_ALONE, batch=1, random_flip=True)
    each = [examples.micro_batch(number, 0) for number in range(100)]
    assert len({(pictures_of(batch)[0], flips_of(batch)[0]) for batch in each}) == 10


def test_an_example_has_one_of_the_views_of_its_picture():
    examples = batches(DOG, random_flip=True)
    assert all(len(views) == 2 for views in examples.views) and len(examples.views) == len(examples.pictures)
    for example in examples.micro_batch(0, 0).examples:
        assert example.view in examples.views[example.picture] and example.view.original == (8, 8)


def test_the_keys_follow_each_other_without_gaps_over_updates():
    examples = batches(DOG_ALONE, batch=2, accumulation=3)
    keys = [key for number in range(3) for micro in range(3) for key in examples.micro_batch(number, micro).keys]
    assert keys == [(number, slot, 0) for number in range(3) for slot in range(6)]
    assert all(one < other for one, other in pairwise(keys))


CAPTIONS = ["a sks dog in snow", "a sks dog at night", "a sks dog in snow", "a dog", "sks"]
CAPTIONED = dataclasses.replace(
    DOG, pictures=tuple(dataclasses.replace(each, caption=text) for each, text in zip(DOG.pictures, CAPTIONS))
)


def test_a_caption_is_the_prompt_of_its_picture_and_the_class_keeps_its_own():
    made = batches(CAPTIONED)
    assert made.prompts == ["a sks dog in snow", "a sks dog at night", "a dog", "sks", "a photo of a dog"]
    for number in range(8):
        for example in made.micro_batch(number, 0).examples:
            expected = CAPTIONS[example.picture] if example.picture < 5 else "a photo of a dog"
            assert made.prompts[example.prompt] == expected


def dropped(made, number):
    """Whether each example of an update has the empty prompt."""
    return {example.key: made.prompts[example.prompt] == "" for example in made.micro_batch(number, 0).examples}


def test_a_caption_is_dropped_by_its_key_alone_and_never_that_of_the_class():
    made = batches(CAPTIONED, dropout=0.25, batch=10)
    chosen = {key: is_dropped for number in range(100) for key, is_dropped in dropped(made, number).items()}
    share = np.mean([is_dropped for (_, _, kind), is_dropped in chosen.items() if kind == 0])
    assert 0.2 < share < 0.3
    assert not any(is_dropped for (_, _, kind), is_dropped in chosen.items() if kind == 1)
    split = [batches(CAPTIONED, dropout=0.25, batch=5, rank=rank, processes=2) for rank in (0, 1)]
    assert {key: value for each in split for key, value in dropped(each, 7).items()} == dropped(made, 7)
    other = batches(CAPTIONED, dropout=0.25, batch=10, seed=1)
    assert any(dropped(other, number) != dropped(made, number) for number in range(5))


def test_without_dropout_the_examples_are_as_they_were():
    plain, with_dropout = batches(DOG, batch=3), batches(DOG, batch=3, dropout=0.5)
    assert "" not in plain.prompts and "" in with_dropout.prompts
    for number in range(5):
        pairs = zip(plain.micro_batch(number, 0).examples, with_dropout.micro_batch(number, 0).examples)
        assert all(one[:2] == other[:2] and one.view == other.view for one, other in pairs)
