"""Plots: points lie where their values are, within the frame."""

import numpy as np
import pytest

from dreambooth.drawing import plots
from dreambooth.drawing.plots import Point


def dots(picture, count):
    """The middle of each point's dot, by its colour."""
    pixels = np.asarray(picture)[:, : plots._WIDTH - 2 * plots._DOT].astype(int)
    found = []
    for colour in plots._COLOURS[:count]:
        value = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        rows, columns = np.nonzero((pixels == value).all(axis=2))
        found.append((np.median(columns), np.median(rows)))
    return found


def test_points_lie_in_the_order_of_their_values():
    points = [Point("one", 0.1, 0.2), Point("two", 0.5, 0.9), Point("three", 0.3, 0.4)]
    (x1, y1), (x2, y2), (x3, y3) = dots(plots.scatter(points, "x", "y"), 3)
    assert x1 < x3 < x2 and y2 < y3 < y1  # rows are counted from above
    assert (x3 - x1) / (x2 - x1) == pytest.approx(0.5, abs=0.02)


def test_a_spread_widens_the_axes():
    narrow, wide = (plots.scatter([Point("a", 0, 0), Point("b", 1, 1, spread, spread)], "x", "y") for spread in (0, 2))
    gap = [b[0] - a[0] for a, b in (dots(each, 2) for each in (narrow, wide))]
    assert gap[1] < 0.5 * gap[0]


@pytest.mark.parametrize("points", [[], [Point("alone", 3.0, 3.0)], [Point("same", 0, 0), Point("place", 0, 0)]])
def test_few_points_are_no_error(points):
    assert plots.scatter(points, "x", "y").size[1] == plots._HEIGHT


def test_many_points_make_the_picture_higher_and_long_names_wider():
    few = plots.scatter([Point("a", 0, 0)], "x", "y")
    many = plots.scatter([Point("a long name of a setting", n, n) for n in range(40)], "x", "y")
    assert many.height > few.height and many.width > few.width


@pytest.mark.parametrize("values, marks", [((0.0, 1.0), ["0.0", "0.5", "1.0"]), ((0.0, 100.0), ["0", "50", "100"])])
def test_the_marks_of_an_axis_are_round(values, marks):
    axis = plots.Axis([(each, 0.0) for each in values])
    assert [axis.text(mark) for mark in axis.marks] == marks
    assert all(0 <= axis.share(mark) <= 1 for mark in axis.marks)


def test_curves_have_a_panel_for_each_figure_and_mark_the_best_step():
    history = [(0, {"loss": 3.0, "score": 0.0}), (10, {"loss": 2.0, "score": 2.0}), (20, {"loss": 1.0, "score": 1.0})]
    one, two = (plots.curves([(step, {name: row[name] for name in names}) for step, row in history], "score")
                for names in (("score",), ("loss", "score")))  # fmt: skip
    assert two.height - one.height == plots._PANEL and one.width == two.width
    pixels = np.asarray(one).astype(int)
    [best] = np.nonzero((pixels[plots._PANEL // 2] == 128).all(axis=1))[0][:1]
    left, right = plots._MARGIN, plots._WIDTH - 2 * plots._DOT
    assert best == pytest.approx((left + right) / 2, abs=3)


def test_curves_leave_out_what_is_no_number_or_missing():
    nan = float("nan")
    history = [(0, {"score": nan}), (5, {"score": nan, "loss": 1.0})]
    assert plots.curves(history, "score").height > plots._PANEL
    assert plots.curves([], "score").size[0] == plots._WIDTH
