"""Which examples go into which micro-batch."""

import dataclasses
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dreambooth.config.learning_sections import OptimizerSettings
from dreambooth.config.sections import PictureSettings
from dreambooth.data.batches import Batches, Rotation
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
    assert examples.prompts == ["a photo of sks dog", "a photo of zwx dog", "a photo of a dog"]


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


def test_turns_are_shared_by_weight_and_spread_evenly():
    weights = [Fraction(1), Fraction(3), Fraction("0.5"), Fraction(1, 3)]
    rotation = Rotation(weights)
    counts = [0] * 4
    for index in range(1000):
        whose, which = rotation.turn(index)
        assert which == counts[whose]
        counts[whose] += 1
        for count, weight in zip(counts, weights):
            assert abs(count - (index + 1) * weight / sum(weights)) < 2
    assert rotation.turn(3) == Rotation(weights).turn(3)  # whatever was asked before
    assert [Rotation([Fraction(7)]).turn(index) for index in (0, 10**9)] == [(0, 0), (0, 10**9)]


def names_of(examples, updates, kind=0):
    return [
        examples.pictures[example.picture].path.name
        for number in range(updates)
        for example in examples.micro_batch(number, 0).examples
        if example.key[2] == kind
    ]


@pytest.mark.parametrize("weight, share", [(1.0, 1 / 2), (3.0, 3 / 4), (0.5, 1 / 3)])
def test_subjects_have_their_share_by_weight_whatever_the_number_of_their_pictures(weight, share):
    cat = dataclasses.replace(CAT, weight=weight)
    examples = batches(DOG, cat, batch=3)
    for kind in (0, 1):
        names = names_of(examples, 100, kind)
        assert abs(sum(name.startswith("cat") for name in names) - 300 * share) <= 1
    dogs = [name for name in names_of(examples, 100) if name.startswith("dog")]
    assert all(sorted(dogs[first : first + 5]) == sorted(dogs[:5]) for first in range(0, len(dogs) - 4, 5))


def test_subjects_of_one_class_share_its_pictures():
    other = Concept("a photo of zwx dog", made_up("other", 2), "a photo of a dog", DOG.class_pictures)
    examples = batches(DOG, other, CAT, batch=3)
    assert len(examples.pictures) == 5 + 7 + 2 + 2 + 3
    names = names_of(examples, 60, kind=1)
    assert abs(sum(name.startswith("dogs") for name in names) - 120) <= 1
    assert len(set(names)) == 10


TALL = tuple(Picture(Path(f"tall{number}.png"), (80, 48), "") for number in range(3))
WIDE = tuple(Picture(Path(f"wide{number}.png"), (48, 80), "") for number in range(2))
SQUARE = tuple(Picture(Path(f"square{number}.png"), (60, 60), "") for number in range(1))
SIZES = [(64, 64), (48, 80), (80, 48), (32, 96)]
SHAPES = Concept("a photo of sks dog", (*TALL, *WIDE, *SQUARE), "a photo of a dog", made_up("dogs", 7))


def bucketed(batch=2, accumulation=1, rank=0, processes=1, concepts=(SHAPES,), **settings):
    optimizer = OptimizerSettings(train_batch_size=batch, gradient_accumulation_steps=accumulation)
    shown = PictureSettings(resolution=64, resize_mode="buckets", **settings)
    return Batches(concepts, optimizer, shown, 0, rank, processes, sizes=SIZES)


@pytest.mark.parametrize("split", [(2, 2, 1), (1, 4, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4)])
def test_all_examples_of_an_update_have_one_size_however_it_is_split(split):
    shown = dict(random_crop=True, random_flip=True)
    cat = Concept("a photo of zwx cat", (*WIDE, made_up("cat", 1)[0]), "a photo of a cat", made_up("cats", 3), 2.0)

    def examples(number, batch, accumulation, processes):
        each = [bucketed(batch, accumulation, rank, processes, (SHAPES, cat), **shown) for rank in range(processes)]
        return sorted(
            example
            for one in each
            for micro in range(accumulation)
            for example in one.micro_batch(number, micro).examples
        )

    sizes = set()
    for number in range(8):
        whole = examples(number, 4, 1, 1)
        assert len({example.view.size for example in whole}) == 1 and examples(number, *split) == whole
        sizes |= {example.view.size for example in whole}
    assert sizes == {(64, 64), (48, 80), (80, 48)}


def test_with_buckets_each_picture_has_its_share_and_class_pictures_come_at_every_size():
    examples = bucketed()
    assert examples.sizes == [(64, 64), (48, 80), (80, 48)]
    assert {view.size for view in examples.views[-1]} == set(examples.sizes)
    names = names_of(examples, 60)
    assert {name: names.count(name) for name in set(names)} == {each.path.name: 20 for each in SHAPES.pictures}
    of_class = names_of(examples, 70, kind=1)
    assert all(len(set(of_class[first : first + 7])) == 7 for first in range(0, 140, 7))
    for number in range(6):
        batch = examples.micro_batch(number, 0)
        assert {example.view.size for example in batch.examples} == {batch.size}
        assert all(example.view in examples.views[example.picture] for example in batch.examples)


def test_a_random_crop_takes_all_its_places_and_mirror_images():
    examples = bucketed(random_crop=True, random_flip=True)
    views = [
        example.view
        for number in range(300)
        for example in examples.micro_batch(number, 0).examples
        if example.key[2] == 1
    ]
    tall = {(view.crop, view.flip) for view in views if view.size == (80, 48)}
    assert len(tall) == 10 and {view.crop for view in views if view.size == (64, 64)} == {None}


def test_colours_are_a_function_of_the_example():
    def of(update, **settings):
        optimizer = OptimizerSettings(train_batch_size=2)
        made = Batches([DOG], optimizer, PictureSettings(color_jitter=0.2, **settings), 0, 0, 1)
        return [example.view.colours for example in made.micro_batch(update, 0).examples]

    assert of(3) == of(3, random_flip=True) != of(4)
    drawn = [factor for update in range(50) for colours in of(update) for factor in colours]
    assert 0.8 < min(drawn) < 0.83 and 1.17 < max(drawn) < 1.2 and len(set(drawn)) == len(drawn) == 600
