"""The world: functions of a seed, true captions, and subjects that it never shows."""

import re
from collections import Counter

import numpy as np
import pytest

from miniworld import things, world
from miniworld.things import Look

COUNT = 4000


@pytest.fixture(scope="module")
def looks():
    return [world.thing(0, number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def strangers():
    return [world.stranger(0, number) for number in range(COUNT)]


def same_picture(one, other):
    return one.tobytes() == other.tobytes()


@pytest.mark.parametrize("function", [world.thing, world.stranger])
def test_a_thing_is_a_function_of_seed_and_number(function):
    once = [function(0, number) for number in range(100)]
    assert [function(0, number) for number in reversed(range(100))] == once[::-1]
    assert [function(1, number) for number in range(100)] != once
    assert len(set(once)) > 70


def test_a_thing_and_a_stranger_of_the_same_number_are_independent(looks, strangers):
    kinds = np.mean([thing.kind == stranger.kind for (thing, _), (stranger, _) in zip(looks, strangers)])
    assert kinds == pytest.approx(1 / len(world.CLASSES), abs=0.03)


def test_a_picture_is_a_function_of_look_scene_seed_and_number():
    look, scene = Look("cat", "red"), "on the grass"
    picture = world.picture(look, scene, 0, 7)
    assert same_picture(world.picture(look, scene, 0, 7), picture)
    others = [
        world.picture(look, scene, 1, 7),
        world.picture(look, scene, 0, 8),
        world.picture(look, "in the snow", 0, 7),
        world.picture(Look("cat", "blue"), scene, 0, 7),
    ]
    assert not any(same_picture(other, picture) for other in others)
    assert world.picture(look, scene, 0, 7, size=96).size == (96, 96)


def test_a_photograph_is_a_function_of_subject_scene_seed_and_number():
    photograph = world.photograph("dog", "at night", 0, 3)
    assert same_picture(world.photograph("dog", "at night", 0, 3), photograph)
    others = [
        ("cat", "at night", 0, 3),
        ("dog", "in a bucket", 0, 3),
        ("dog", "at night", 1, 3),
        ("dog", "at night", 0, 4),
    ]
    assert not any(same_picture(world.photograph(*other), photograph) for other in others)
    assert world.photograph("dog", "at night", 0, 3, size=96).size == (96, 96)


def test_a_photograph_shows_the_subject():
    picture = np.asarray(world.photograph("bird", "on the beach", 0, 0, size=256))
    look = world.SUBJECTS["bird"]
    for colour in (look.colour, look.mark[0], *look.hat):
        assert (picture == things.COLOURS[colour]).all(-1).mean() > 0.002


def test_a_caption_is_a_function_of_seed_and_number():
    look = Look("dog", "red", "striped", ("blue", "star"), ("red", "white"))

    def captions(seed):
        return [world.caption(look, "at night", seed, number) for number in range(50)]

    assert captions(0) == captions(0) and captions(0) != captions(1)
    assert len(set(captions(0))) > 20


def test_the_world_has_every_class_colour_and_scene_about_equally_often(looks):
    for counts, names in (
        (Counter(look.kind for look, _ in looks), world.CLASSES),
        (Counter(look.colour for look, _ in looks), world.COLOURS),
        (Counter(scene for _, scene in looks), world.SCENES),
    ):
        assert set(counts) == set(names)
        assert all(count == pytest.approx(COUNT / len(names), rel=0.2) for count in counts.values())
    patterns = Counter(look.pattern for look, _ in looks)
    for pattern, share in ((None, 0.5), ("spotted", 0.25), ("striped", 0.25)):
        assert patterns[pattern] / COUNT == pytest.approx(share, abs=0.03)


def test_the_world_has_no_subjects_colour_no_mark_and_no_hat(looks):
    colours = {look.colour for look in world.SUBJECTS.values()}
    assert not colours & set(world.COLOURS) and colours < set(things.COLOURS)
    for look, _ in looks:
        assert look.colour not in colours and look.mark is look.hat is None


def test_no_two_subjects_share_a_colour_and_each_wears_a_mark_and_a_hat():
    looks = world.SUBJECTS.values()
    assert len({look.colour for look in looks}) == len(looks)
    assert all(look.mark and look.hat and look.kind == kind for kind, look in world.SUBJECTS.items())


def test_strangers_have_every_class_colour_mark_and_hat_but_never_a_subjects_class_and_colour(strangers):
    pairs = {(look.kind, look.colour) for look, _ in strangers}
    subjects = {(look.kind, look.colour) for look in world.SUBJECTS.values()}
    everything = {(kind, colour) for kind in world.CLASSES for colour in things.COLOURS}
    assert pairs == everything - subjects
    marks = {look.mark for look, _ in strangers}
    assert marks == {None, *((colour, shape) for colour in things.COLOURS for shape in things.MARKS)}
    assert {colour for look, _ in strangers for colour in look.hat or ()} == set(things.COLOURS)
    for part in ("mark", "hat"):
        assert np.mean([getattr(look, part) is not None for look, _ in strangers]) == pytest.approx(0.6, abs=0.03)
    assert {scene for _, scene in strangers} == set(world.SCENES)


def test_seen_and_unseen_scenes_are_all_scenes_once():
    assert len(world.SEEN) == 5 and len(world.UNSEEN) == 3
    assert sorted((*world.SEEN, *world.UNSEEN)) == sorted(world.SCENES)


# the grammar of the captions
COLOUR, SHAPE = "|".join(things.COLOURS), "|".join(things.MARKS)
CAPTION = re.compile(
    r"(?P<start>a photo of |a picture of )?"
    rf"an? ((?P<pattern>plain|spotted|striped) )?((?P<colour>{COLOUR}) )?(?P<kind>{'|'.join(world.CLASSES)})"
    rf"( with (an? (?P<mark>({COLOUR}) ({SHAPE})))?(?P<and> and )?(an? (?P<hat>({COLOUR})( and ({COLOUR}))?) hat)?)?"
    rf"( (?P<scene>{'|'.join(world.SCENES)}))?"
)


@pytest.fixture(scope="module")
def read(looks, strangers):
    """Return (parts of the caption, look, scene) of many things."""
    everything = [*looks, *strangers]
    captions = [world.caption(*thing, 0, number) for number, thing in enumerate(everything)]
    matches = [CAPTION.fullmatch(caption) for caption in captions]
    assert all(matches), [caption for caption, match in zip(captions, matches) if not match][:3]
    return [(match.groupdict(), *thing) for match, thing in zip(matches, everything)]


def test_a_caption_is_true(read):
    for parts, look, scene in read:
        assert parts["kind"] == look.kind
        assert parts["colour"] in (None, look.colour)
        assert parts["pattern"] in (None, look.pattern or "plain")
        assert parts["scene"] in (None, scene)
        assert parts["mark"] in (None, look.mark and " ".join(look.mark))
        assert parts["hat"] is None or tuple(parts["hat"].split(" and ")) in (
            look.hat,
            look.hat[:1] * (look.hat[0] == look.hat[1]),
        )
        assert bool(parts["and"]) == bool(parts["mark"] and parts["hat"])


@pytest.mark.parametrize(
    "part, among, share",
    [
        ("colour", lambda look: True, 0.7),
        ("scene", lambda look: True, 0.75),
        ("pattern", lambda look: look.pattern, 0.75),
        ("pattern", lambda look: not look.pattern, 0.25),
        ("mark", lambda look: look.mark, 0.8),
        ("hat", lambda look: look.hat, 0.8),
        ("start", lambda look: True, 0.8),
    ],
)
def test_a_caption_sometimes_omits_each_part(read, part, among, share):
    named = [parts[part] is not None for parts, look, _ in read if among(look)]
    assert len(named) > 1000 and np.mean(named) == pytest.approx(share, abs=0.035)


def test_the_omissions_of_a_caption_are_independent(read):
    named = np.array([[parts[part] is not None for part in ("colour", "scene", "start")] for parts, *_ in read])
    assert np.abs(np.corrcoef(named.T) - np.eye(3)).max() < 0.05


def test_a_caption_begins_in_one_of_three_ways(read):
    starts = Counter(parts["start"] for parts, *_ in read)
    assert {start: round(count / len(read), 1) for start, count in starts.items()} == {
        "a photo of ": 0.6,
        "a picture of ": 0.2,
        None: 0.2,
    }


def test_a_hat_of_one_colour_is_named_once():
    captions = {world.caption(Look("cat", "red", hat=("blue", "blue")), "at night", 0, number) for number in range(50)}
    worn = {caption.partition(" with ")[2].removesuffix(" at night") for caption in captions}
    assert worn == {"", "a blue hat"}


def test_the_article_fits_the_next_word(looks, strangers):
    articles = Counter()
    for number, thing in enumerate([*looks, *strangers]):
        for name, letter in re.findall(r"\b(an?) (\w)", world.caption(*thing, 0, number)):
            assert (name == "an") == (letter in "aeiou")
            articles[name] += 1
    assert articles["an"] > 100 and articles["a"] > 1000
    assert (world.article("orange"), world.article("dog")) == ("an", "a")
