"""The shapes of things, marks and hats."""

import math

import numpy as np
import pytest

from miniworld import things

each_figure = pytest.mark.parametrize("figure", [make() for make in things.CLASSES.values()], ids=things.CLASSES)
each_mark = pytest.mark.parametrize("mark", things.MARKS.values(), ids=things.MARKS)


def points_of(shapes):
    return np.array([point for _, points in shapes for point in points])


def area(points):
    """Return the signed area of a polygon by the shoelace formula."""
    x, y = np.array(points).T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


@each_figure
def test_a_figure_is_painted_in_known_colours_and_has_a_coat(figure):
    paints = [paint for paint, _ in figure.shapes]
    assert "coat" in paints
    for paint in paints:
        assert paint in ("coat", "shade", *things.COLOURS) or (
            len(paint) == 3 and all(0 <= each < 256 for each in paint)
        )


@each_figure
def test_a_figure_fills_the_square_around_its_origin(figure):
    points = points_of(figure.shapes)
    assert np.abs(points).max() <= 1.2 and np.ptp(points[:, 0]) > 0.8 and np.ptp(points[:, 1]) > 1.2


@pytest.mark.parametrize("kind", ["bird", "cat", "dog", "house", "tree", "ball"])
def test_things_that_stand_have_their_feet_at_the_bottom(kind):
    assert points_of(things.CLASSES[kind]().shapes)[:, 1].min() == pytest.approx(-1, abs=0.05)


@each_figure
def test_a_mark_lies_inside_the_figure_and_a_hat_on_its_upper_half(figure):
    points = points_of(figure.shapes)
    x, y, radius = figure.mark
    for centre, column in ((x, 0), (y, 1)):
        assert points[:, column].min() < centre - radius and centre + radius < points[:, column].max()
    assert figure.hat[1] > points[:, 1].mean()


@each_mark
def test_a_mark_has_its_position_and_its_radius(mark):
    unit, moved = np.array(mark(0, 0, 1)), np.array(mark(0.5, -2, 3))
    np.testing.assert_allclose(moved, 3 * unit + [0.5, -2], atol=1e-12)
    assert 0.6 < np.abs(unit).max() <= 1.1 and abs(area(unit)) > 0.8


def test_marks_differ():
    shapes = {tuple(map(tuple, np.round(mark(0, 0, 1), 6))) for mark in things.MARKS.values()}
    assert len(shapes) == len(things.MARKS)


def test_the_basic_shapes_have_their_areas():
    assert area(things.box(-1, 0, 2, 4)) == 12
    assert area(things.oval(3, 4, 2, 1, turn=30, count=2000)) == pytest.approx(2 * math.pi, rel=1e-4)
    assert len(things.star(0, 0, 1)) == 10
    radii = np.hypot(*np.array(things.star(0, 0, 2, points=3, inner=0.25)).T)
    np.testing.assert_allclose(radii, [2, 0.5] * 3)


def test_a_turn_is_counterclockwise_in_degrees():
    tip = things.oval(0, 0, 2, 1, turn=90)[0]
    np.testing.assert_allclose(tip, (0, 2), atol=1e-12)


def test_a_hat_has_bands_of_two_colours_and_a_bobble_on_top():
    parts = things.hat((0.2, 0.5, 0.3, 0), ("red", "white"))
    assert [paint for paint, _ in parts] == ["red", "white", "red", "white", "white"]
    heights = [np.array(points)[:, 1].max() for _, points in parts]
    assert heights == sorted(heights) and np.array(parts[0][1])[:, 1].min() == pytest.approx(0.5)
    widths = [np.ptp(np.array(points)[:, 0]) for _, points in parts[:4]]
    assert widths == sorted(widths, reverse=True) and widths[0] == pytest.approx(0.6)


def test_a_hat_turns_about_its_base():
    straight, turned = (points_of(things.hat((0.2, 0.5, 0.3, turn), ("red", "white"))) for turn in (0, 90))
    x, y = (straight - [0.2, 0.5]).T
    np.testing.assert_allclose(turned, np.stack([0.2 - y, 0.5 + x], axis=1), atol=1e-12)


def test_colours_are_far_from_each_other_and_from_the_outlines():
    colours = [*things.COLOURS.values(), things.INK]
    for index, one in enumerate(colours):
        for other in colours[index + 1 :]:
            assert np.abs(np.subtract(one, other)).max() >= 14
