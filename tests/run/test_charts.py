"""Curves: where their points lie, what is drawn of many, and that a mean forgets."""

import math

import pytest

from dreambooth.run.report import charts


def places(line):
    return [tuple(map(float, each.split(","))) for each in line.split()]


def test_a_curve_goes_from_left_to_right_and_up_where_it_grows():
    chart = charts.chart("loss", [("run", [(0, 1.0), (10, 2.0), (20, 4.0)])])
    [curve] = chart.curves
    points = places(curve.line)
    assert points == [*curve.dots] and len(points) == 3
    assert points[0][0] < points[1][0] < points[2][0] and points[0][1] > points[1][1] > points[2][1]
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)
    assert points[1][1] - points[2][1] == pytest.approx(2 * (points[0][1] - points[1][1]), abs=0.3)
    assert all(chart.left <= x <= chart.right and chart.top <= y <= chart.bottom for x, y in points)
    assert (curve.first, curve.last) == ((0, 1.0), (20, 4.0))


def test_marks_stand_where_a_curve_has_their_values():
    chart = charts.chart("loss", [("run", [(0, 0.0), (100, 1.0)])])
    up = {mark.text: mark.place for mark in chart.up}
    across = {mark.text: mark.place for mark in chart.across}
    [(left, low), (right, high)] = places(chart.curves[0].line)
    assert up["0.0"] == low and up["1.0"] == high and across["0"] == left and across["100"] == right


def test_without_points_there_is_nothing_to_draw():
    assert charts.chart("loss", []) is None
    assert charts.chart("loss", [("a", []), ("b", [])]) is None


def test_a_run_keeps_its_colour_where_another_has_no_points():
    chart = charts.chart("score", [("a", []), ("b", [(1, 0.5)])])
    assert [(curve.name, curve.colour) for curve in chart.curves] == [("b", 1)]


def test_one_point_and_points_that_are_all_alike_are_drawn():
    for value in (0.0, 3e-4, -2.0, 1e30):
        chart = charts.chart("rate", [("run", [(1, value), (2, value)])])
        assert all(math.isfinite(each) for point in places(chart.curves[0].line) for each in point)
        assert chart.up
    assert charts.chart("score", [("run", [(7, 0.5)])]).curves[0].dots


def test_a_constant_rate_can_be_read_from_its_axis():
    chart = charts.chart("learning_rate", [("run", [(1, 3e-4), (400, 3e-4)])])
    assert "0.0003" in [mark.text for mark in chart.up]


def test_of_many_points_the_means_are_drawn():
    points = [(step, float(step % 2)) for step in range(10_000)]
    [curve] = charts.chart("loss", [("run", points)]).curves
    drawn = places(curve.line)
    assert len(drawn) <= 300 and not curve.dots
    heights = [y for _, y in drawn]
    assert max(heights) - min(heights) < 10  # all near one half


def test_a_smoothed_curve_is_a_mean_that_forgets_and_is_right_from_its_beginning():
    constant = charts.chart("loss", [("run", [(step, 2.0) for step in range(50)])], smooth=True).curves[0]
    assert constant.first[1] == pytest.approx(2.0) and constant.last[1] == pytest.approx(2.0)
    fallen = [(step, 4.0 if step < 200 else 1.0) for step in range(400)]
    [curve] = charts.chart("loss", [("run", fallen)], smooth=True).curves
    assert curve.last[1] == pytest.approx(1.0, abs=0.01)
    assert curve.faint and curve.faint != curve.line


def test_a_mean_forgets_by_updates_and_not_by_points():
    each = [(step, 4.0 if step <= 100 else 1.0) for step in range(1, 201)]
    tenth = [point for point in each if point[0] % 10 == 0]
    ends = [charts.chart("loss", [("run", points)], smooth=True).curves[0].last[1] for points in (each, tenth)]
    assert ends[0] == pytest.approx(ends[1], abs=0.02)


def test_the_marked_step_lies_on_its_point():
    chart = charts.chart("score", [("run", [(0, 0.1), (75, 0.9), (150, 0.5)])], marked_step=75)
    assert chart.line_at == chart.curves[0].dots[1][0]
