"""The renderer: each part of a look is visible, in every scene and at every size."""

import numpy as np
import pytest
from PIL import Image

from dreambooth.data import randomness
from miniworld import draw, scenes, things, world
from miniworld.things import Look

each_kind = pytest.mark.parametrize("kind", world.CLASSES)
each_scene = pytest.mark.parametrize("scene", world.SCENES)
SIDE = 128
RIM = 0.78  # of the bucket: it lies above this share of the picture's height


def stream(key=0):
    return randomness.stream(0, "test", key)


def pixels(look, scene, key=0, size=64):
    return np.asarray(draw.draw(look, scene, stream(key), size))


@pytest.fixture
def exact(monkeypatch):
    """Draw pictures without supersampling, so that no pixel mixes two colours."""
    monkeypatch.setattr(draw, "SUPERSAMPLING", 1)
    return lambda look, scene, key=0: pixels(look, scene, key, SIDE)


def seen(colour, scene):
    """Return a colour as a scene shows it."""
    found = things.COLOURS.get(colour, colour)
    return scenes.blend(found, (16, 22, 70), 0.2) if scene == "at night" else found


def where(picture, colour, scene):
    return (picture == seen(colour, scene)).all(-1)


def differ(one, other):
    return (one != other).any(-1)


@each_kind
def test_every_class_draws_in_every_scene(kind):
    drawn = [draw.draw(Look(kind, "blue"), scene, stream()) for scene in world.SCENES]
    assert {(picture.mode, picture.size) for picture in drawn} == {("RGB", (64, 64))}
    assert len({picture.tobytes() for picture in drawn}) == len(world.SCENES)


@each_scene
def test_no_two_classes_look_alike(scene):
    drawn = [pixels(Look(kind, "blue"), scene) for kind in world.CLASSES]
    for index, one in enumerate(drawn):
        for other in drawn[index + 1 :]:
            assert differ(one, other).mean() > 0.04


@pytest.mark.parametrize("size", [16, 64, 100])
def test_a_picture_has_the_given_size(size):
    for scene in world.SCENES:
        assert pixels(Look("cat", "red", "striped"), scene, size=size).shape == (size, size, 3)


@each_scene
def test_the_picture_depends_on_the_stream(scene):
    look = Look("dog", "brown", "spotted", ("red", "disc"), ("blue", "white"))
    picture = pixels(look, scene, key=1)
    assert np.array_equal(pixels(look, scene, key=1), picture)
    assert differ(pixels(look, scene, key=2), picture).mean() > 0.05


@each_scene
def test_things_face_both_sides_and_stand_at_different_positions(scene, exact):
    eyes = [np.argwhere(where(exact(Look("dog", "blue"), scene, key), things.INK, scene)) for key in range(12)]
    bodies = [np.argwhere(where(exact(Look("dog", "blue"), scene, key), "blue", scene)) for key in range(12)]
    sides = {bool(eye[:, 1].mean() > body[:, 1].mean()) for eye, body in zip(eyes, bodies)}
    assert sides == {True, False} and np.std([body.mean(0) for body in bodies], axis=0).min() > 1


@each_kind
def test_the_coats_colour_dominates_the_middle(kind, exact):
    """The middle of a house lies below its roof. The bucket covers too much of a thing."""
    for scene in world.SCENES[:-1]:
        for key, colour in enumerate(things.COLOURS):
            top = SIDE // 2 if kind == "house" else SIDE // 4
            middle = exact(Look(kind, colour), scene, key)[top : -SIDE // 4, SIDE // 4 : -SIDE // 4]
            found, counts = np.unique(middle.reshape(-1, 3), axis=0, return_counts=True)
            assert tuple(found[counts.argmax()]) == seen(colour, scene), (scene, colour)


def test_the_last_scene_is_the_bucket():
    assert world.SCENES[-1] == "in a bucket"  # the test above omits it


@pytest.mark.parametrize("pattern", world.PATTERNS)
@each_kind
def test_a_pattern_changes_the_coat_and_nothing_else(kind, pattern, exact):
    for key, scene in enumerate(world.SCENES):
        for colour in ("black", "yellow"):  # the pattern is lighter on a dark coat, and darker on a light one
            plain, patterned = (exact(Look(kind, colour, each), scene, key) for each in (None, pattern))
            coat, changed = where(plain, colour, scene), differ(plain, patterned)
            assert not (changed & ~coat).any(), scene
            assert 0.1 < changed.sum() / coat.sum() < 0.75, scene
            brighter = patterned[changed].mean() > plain[changed].mean()
            assert brighter == (colour == "black")


def test_spots_and_stripes_are_not_the_same():
    for scene in world.SCENES:
        spotted, striped = (pixels(Look("ball", "white", pattern), scene) for pattern in world.PATTERNS)
        assert differ(spotted, striped).mean() > 0.05


@pytest.mark.parametrize("shape", things.MARKS)
@each_kind
def test_a_mark_is_visible_in_its_colour_and_covers_nothing_else(kind, shape, exact):
    """The bucket may hide much of it."""
    for key, scene in enumerate(world.SCENES[:-1]):
        for pattern in (None, "striped"):
            bare, marked = (exact(Look(kind, "grey", pattern, mark), scene, key) for mark in (None, ("lime", shape)))
            mark, changed = where(marked, "lime", scene), differ(bare, marked)
            assert mark.mean() > 0.006
            assert not (changed & ~mark & ~where(marked, things.INK, scene)).any()
            assert changed.mean() < 0.12


def test_marks_of_other_shapes_cover_other_pixels(exact):
    looks = [Look("ball", "grey", None, ("lime", shape)) for shape in things.MARKS]
    shapes = [where(exact(look, "at night"), "lime", "at night") for look in looks]
    for index, one in enumerate(shapes):
        for other in shapes[index + 1 :]:
            assert (one != other).sum() > 0.1 * one.sum()


@each_scene
@each_kind
def test_a_hat_is_visible_in_both_colours(kind, scene, exact):
    hatted = exact(Look(kind, "grey", None, None, ("magenta", "turquoise")), scene)
    for colour in ("magenta", "turquoise"):
        assert where(hatted, colour, scene).mean() > 0.009  # more than the bobble alone
    swapped = exact(Look(kind, "grey", None, None, ("turquoise", "magenta")), scene)
    assert np.array_equal(where(hatted, "magenta", scene), where(swapped, "turquoise", scene))


@each_kind
def test_a_hat_stays_inside_the_picture(kind, exact):
    """Its bobble is the highest part, and may touch the edge."""
    cut = 0
    for key in range(64):
        scene = world.SCENES[key % len(world.SCENES)]
        hatted = exact(Look(kind, "grey", None, None, ("magenta", "turquoise")), scene, key)
        worn = where(hatted, "magenta", scene) | where(hatted, "turquoise", scene)
        cut += max(edge.sum() for edge in (worn[0], worn[:, 0], worn[:, -1])) > 8
    assert cut == 0, f"{cut} of 64 are cut off"


@pytest.mark.parametrize("subject", world.SUBJECTS)
def test_all_of_a_subject_is_visible_where_it_is_photographed(subject, exact):
    look = world.SUBJECTS[subject]
    for scene in world.SEEN:
        picture = exact(look, scene)
        for colour in (look.colour, look.mark[0], *look.hat):
            assert where(picture, colour, scene).mean() > 0.003, (scene, colour)


def test_the_night_is_darker_than_every_other_scene():
    for key in range(8):
        brightness = {scene: pixels(Look("ball", "green"), scene, key).mean() for scene in world.SCENES}
        night = brightness.pop("at night")
        assert night < 0.75 * min(brightness.values())


@each_kind
def test_at_night_the_thing_is_darker_too(kind, exact):
    look = Look(kind, "yellow", None, ("white", "star"), ("pink", "orange"))
    night = exact(look, "at night")
    for colour in ("yellow", "white", "pink", "orange"):
        assert where(night, colour, "at night").any() and not where(night, colour, "on the grass").any()
        assert sum(seen(colour, "at night")) < sum(things.COLOURS[colour])


@each_kind
def test_the_bucket_hides_a_thing_below_its_rim(kind, exact):
    """The visible part of a thing differs between two colours."""
    for key in range(12):
        hidden, open_ = (
            differ(exact(Look(kind, "purple"), scene, key), exact(Look(kind, "lime"), scene, key))
            for scene in ("in a bucket", "on the grass")
        )
        below = int(RIM * SIDE)
        assert hidden[:below].sum() > 0.2 * open_.sum()
        # a car is wider than the bucket, so a little of it is visible at the sides
        assert hidden[below:].sum() < (0.03 if kind == "car" else 0.001) * hidden.sum()
        assert not hidden[below:, SIDE // 2 - 8 : SIDE // 2 + 8].any()


@each_scene
def test_a_reduced_large_picture_is_similar_to_a_small_one(scene):
    look = Look("car", "magenta", "spotted", ("white", "bolt"), ("green", "yellow"))
    small = pixels(look, scene, key=3)
    large = Image.fromarray(pixels(look, scene, key=3, size=512))
    reduced = np.asarray(large.resize((64, 64), Image.BOX))
    assert np.abs(small.astype(float) - reduced).mean() < 4
    # so the threshold can fail
    assert np.abs(small.astype(float) - pixels(look, scene, key=4)).mean() > 12
