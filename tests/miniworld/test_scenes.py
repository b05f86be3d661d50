"""The scenes: their canvas, their backdrops and the bucket."""

import numpy as np
import pytest

from dreambooth.data import randomness
from miniworld import scenes

each_scene = pytest.mark.parametrize("scene", scenes.SCENES.values(), ids=scenes.SCENES)
SIDE = 100
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def canvas():
    return scenes.Canvas(SIDE)


def pixels(canvas):
    return np.asarray(canvas.picture)


def painted(canvas, colour=RED):
    """Return where [y, x] the canvas has a colour."""
    return (pixels(canvas) == colour).all(-1)


def backdrop(scene, key, size=SIDE):
    canvas = scenes.Canvas(size)
    scene.paint_backdrop(canvas, randomness.stream(0, "test", key))
    return pixels(canvas)


def test_points_are_shares_of_the_side_from_the_top_left(canvas):
    canvas.fill_rectangle(RED, 0.1, 0.2, 0.5, 0.4)
    rows, columns = np.nonzero(painted(canvas))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 40, 10, 50)


def test_a_disc_is_round(canvas):
    canvas.fill_disc(RED, 0.5, 0.5, 0.3)
    found = painted(canvas)
    assert found.sum() == pytest.approx(np.pi * 30**2, rel=0.03)
    np.testing.assert_array_equal(found, found.T)


def test_a_polygon_is_filled(canvas):
    canvas.fill(RED, [(0, 0), (1, 0), (0, 1)])
    assert painted(canvas).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("width, expected", [(0.1, 10), (0.0, 1), (0.001, 1)])
def test_a_line_has_its_width_but_at_least_a_pixel(canvas, width, expected):
    canvas.draw_line(RED, [(0, 0.5), (1, 0.5)], width)
    assert painted(canvas)[:, SIDE // 2].sum() == pytest.approx(expected, abs=1)
    assert painted(canvas).any()


def test_a_blend_goes_from_one_colour_to_the_other():
    assert scenes.blend(RED, BLUE, 0) == RED and scenes.blend(RED, BLUE, 1) == BLUE
    assert scenes.blend((0, 100, 200), (100, 0, 200), 0.25) == (25, 75, 200)


def test_uniform_numbers_lie_between_their_bounds():
    stream = randomness.stream(0, "test")
    numbers = [scenes.uniform(stream, -2, 3) for _ in range(2000)]
    assert -2 <= min(numbers) < -1.9 and 2.9 < max(numbers) <= 3 and np.mean(numbers) == pytest.approx(0.5, abs=0.1)


@each_scene
def test_a_backdrop_covers_the_whole_canvas(scene):
    for key in range(5):
        assert not (backdrop(scene, key) == 0).all(-1).any()  # an empty canvas is black


@each_scene
def test_a_backdrop_depends_only_on_the_stream(scene):
    np.testing.assert_array_equal(backdrop(scene, 1), backdrop(scene, 1))
    assert (backdrop(scene, 1) != backdrop(scene, 2)).any(-1).mean() > 0.01


@each_scene
def test_the_feet_of_a_thing_lie_on_the_ground(scene):
    low, high = scene.feet
    assert 0.75 < low < high < 0.96


def test_no_two_scenes_have_the_same_backdrop():
    pictures = [backdrop(scene, 0) for scene in scenes.SCENES.values()]
    for index, one in enumerate(pictures):
        for other in pictures[index + 1 :]:
            assert np.abs(one.astype(float) - other).mean() > 20


def test_the_bucket_covers_only_what_is_below_its_rim(canvas):
    canvas.fill_rectangle(RED, 0, 0, 1, 1)
    scenes.paint_bucket_front(canvas, x=0.5, width=0.3, top=0.6)
    covered = ~painted(canvas)
    assert not covered[: int(0.6 * SIDE) - 2].any() and not covered[:, : int(0.2 * SIDE) - 2].any()
    assert covered[int(0.6 * SIDE) + 2 : -4, int(0.3 * SIDE) : int(0.7 * SIDE)].all()
