"""The measures, against figures worked out by hand."""

import numpy as np
import pytest

from dreambooth.drawing import measures
from dreambooth.drawing.measures import Request

EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)
BETWEEN = (0.6, 0.8)  # 0.6 of EAST, 0.8 of NORTH


def rows(*vectors):
    return np.array(vectors)


@pytest.mark.parametrize(
    "some, others, expected",
    [
        (rows(EAST), rows(EAST), 1),
        (rows(EAST), rows(WEST), -1),
        (rows(EAST, NORTH), rows(EAST, NORTH), 0.5),
        (rows(BETWEEN), rows(EAST, NORTH, WEST), (0.6 + 0.8 - 0.6) / 3),
        (rows(EAST, BETWEEN), rows(NORTH), (0 + 0.8) / 2),
    ],
)
def test_the_mean_cosine_is_over_all_pairs(some, others, expected):
    assert measures.mean_cosine(some, others) == pytest.approx(expected)
    assert measures.mean_cosine(others, some) == pytest.approx(expected)


@pytest.mark.parametrize(
    "members, expected",
    [
        ([EAST, EAST], 1),
        ([EAST, NORTH], 0),
        ([EAST, NORTH, BETWEEN], (0 + 0.6 + 0.8) / 3),
        ([EAST, NORTH, WEST, WEST], (0 - 1 - 1 + 0 + 0 + 1) / 6),
    ],
)
def test_the_mean_cosine_within_a_set_leaves_out_that_of_a_picture_with_itself(members, expected):
    assert measures.mean_cosine_within(rows(*members)) == pytest.approx(expected)


@pytest.mark.parametrize("members", [[], [EAST]])
def test_one_picture_alone_has_no_mean_cosine(members):
    assert measures.mean_cosine_within(np.array(members).reshape(-1, 2)) is None


def test_unknown_values_are_left_out_of_a_mean():
    assert measures.mean_of_known([1, None, 4]) == 2.5 and measures.mean_of_known(iter([0, 0])) == 0
    assert measures.mean_of_known([None, None]) is None and measures.mean_of_known([]) is None


def test_diversity_is_the_mean_distance_of_pictures_of_the_same_prompt():
    """Groups count alike, however large they are."""
    same, other = rows(EAST, EAST, EAST), rows(EAST, NORTH)
    assert measures.diversity([same]) == pytest.approx(0) and measures.diversity([other]) == pytest.approx(1)
    assert measures.diversity([same, other, rows(WEST)]) == pytest.approx(0.5)
    assert measures.diversity([rows(EAST), rows(NORTH)]) is None


SUBJECT = rows(EAST, NORTH, BETWEEN)
REQUESTS = [Request("one", [0]), Request("two", [1, 2])]
TEXTS = rows(BETWEEN, WEST)


def test_the_measures_of_a_model():
    drawn = [rows(EAST, BETWEEN), rows(NORTH, NORTH)]
    of_class = rows(WEST, BETWEEN)
    assert measures.measure_model(drawn, of_class, SUBJECT, REQUESTS, TEXTS) == {
        "CLIP-I": pytest.approx(((1 + 0.6) / 2 + (1 + 0.8) / 2) / 2),
        "CLIP-T": pytest.approx(((0.6 + 1) / 2 + 0) / 2),
        "PRES": pytest.approx(((-1 + 0 - 0.6) + (0.6 + 0.8 + 1)) / 6),
        "DIV": pytest.approx(((1 - 0.6) + 0) / 2),
    }


def test_without_a_class_prompt_and_with_single_pictures_two_measures_are_unknown():
    measured = measures.measure_model([rows(EAST), rows(NORTH)], np.zeros([0, 2]), SUBJECT, REQUESTS, TEXTS)
    assert measured["PRES"] is None and measured["DIV"] is None
    assert measured["CLIP-I"] == pytest.approx((1 + 0.9) / 2) and measured["CLIP-T"] == pytest.approx(0.3)


def test_the_measures_of_the_subjects_own_pictures():
    """A single picture of a scene can't be compared with another one of it."""
    assert measures.measure_subject(SUBJECT, REQUESTS, TEXTS) == {
        "CLIP-I": pytest.approx(0.8),
        "CLIP-T": pytest.approx((0.6 + (0 - 0.6) / 2) / 2),
        "PRES": pytest.approx((0 + 0.6 + 0.8) / 3),
        "DIV": pytest.approx(0.2),
    }


@pytest.mark.parametrize(
    "base, tuned, subject, share",
    [
        (0.5, 0.5, 0.9, 0),
        (0.5, 0.9, 0.9, 1),
        (0.5, 0.6, 0.9, 0.25),
        (0.5, 0.4, 0.9, -0.25),
        (0.5, 0.6, 0.5, None),
        (None, 0.6, 0.9, None),
        (0.5, None, 0.9, None),
        (0.5, 0.6, None, None),
        (0.0, 0.2, 0.4, 0.5),
    ],
)
def test_the_share_gained_is_0_at_the_base_and_1_at_the_subject(base, tuned, subject, share):
    assert measures.share_gained(base, tuned, subject) == (None if share is None else pytest.approx(share))


def test_pictures_are_shared_among_the_subjects_that_they_resemble_most():
    subjects = [np.eye(3)[[0, 0]], np.eye(3)[[1]], np.eye(3)[[2]]]
    rows = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0.1, 0.9, 0.2]])
    assert measures.nearest(rows, subjects) == [0.5, 0.5, 0.0]
