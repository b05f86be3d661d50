"""The score: what it rewards, and its bounds."""

import math

import pytest

from dreambooth.run.choosing import score

BASE = {"CLIP-I": 0.4, "CLIP-T": 0.5, "PRES": 0.3, "DIV": 0.1}
OWN = {"CLIP-I": 0.9, "CLIP-T": 0.4, "PRES": 0.8, "DIV": 0.1}


def of(**changes):
    return score.of_measures({**BASE, **changes}, BASE, OWN)


def test_it_is_the_geometric_mean_of_subject_prompt_and_class():
    found = of(**{"CLIP-I": 0.8, "CLIP-T": 0.4, "PRES": 0.6})  # three fifths of the way to the subject
    assert found == pytest.approx((0.8 * 0.8 * 0.8) ** (1 / 3))


@pytest.mark.parametrize(("gone", "kept"), [(-0.2, 1), (0, 1), (0.5, 1), (0.75, 0.5), (0.9, 0.2), (1, 0), (1.2, 0)])
def test_the_class_is_kept_while_its_pictures_are_nearer_to_it_than_to_the_subject(gone, kept):
    good = {"CLIP-I": 0.9, "CLIP-T": 0.5}
    assert of(**good, PRES=0.3 + gone * 0.5) == pytest.approx(kept ** (1 / 3), abs=1e-6)


@pytest.mark.parametrize(("shown", "kept"), [(0.25, 1), (0.5, 1), (0.75, 0.5), (1, 0)])
def test_a_class_whose_pictures_are_the_subject_now_and_then_counts_by_their_mean(shown, kept):
    """As the documents say: up to half of them are forgiven."""
    class_like, subject_like = 0.3, 0.8
    mean = shown * subject_like + (1 - shown) * class_like
    assert of(**{"CLIP-I": 0.9, "CLIP-T": 0.5}, PRES=mean) == pytest.approx(kept ** (1 / 3), abs=1e-6)


def test_a_model_that_lacks_one_of_the_three_is_worth_nothing():
    good = {"CLIP-I": 0.9, "CLIP-T": 0.5, "PRES": 0.3}
    assert of(**good) == pytest.approx(1)
    for lost in ({"CLIP-I": 0.4}, {"CLIP-T": 0.0}, {"PRES": 0.8}):
        assert of(**{**good, **lost}) == 0


def test_more_than_the_subjects_own_pictures_or_the_bases_prompts_is_no_more():
    good = {"CLIP-I": 0.9, "CLIP-T": 0.5, "PRES": 0.3}
    assert of(**{**good, "CLIP-I": 0.99}) == of(**{**good, "CLIP-T": 0.7}) == of(**{**good, "PRES": 0.1}) == 1


def test_what_tells_subject_and_class_apart_goes_before_either_alone():
    base, own = {**BASE, "APART": -0.2, "DRIFT": -0.4}, {**OWN, "APART": 0.2, "DRIFT": 0.4}
    good = {"CLIP-I": 0.4, "CLIP-T": 0.5, "PRES": 0.8, "APART": 0.2, "DRIFT": -0.4}
    assert score.of_measures(good, base, own) == pytest.approx(1)
    assert score.of_measures({**good, "DRIFT": -0.5}, base, own) == pytest.approx(1)
    assert score.of_measures({**good, "DRIFT": 0.0}, base, own) == pytest.approx(1)
    assert score.of_measures({**good, "DRIFT": 0.35}, base, own) == pytest.approx(0.5)
    assert score.of_measures({**good, "APART": -0.15}, base, own) == pytest.approx(0.5)
    assert score.of_measures({**good, "DRIFT": 0.4}, base, own) == 0


def test_what_can_not_tell_them_apart_gives_way():
    """A subject that is no further from its class than the base draws it."""
    base, found = {**BASE, "APART": 0.2, "DRIFT": 0.2}, {"CLIP-I": 0.8, "CLIP-T": 0.4, "PRES": 0.4}
    own = {**OWN, "APART": 0.2, "DRIFT": 0.2}
    assert score.of_measures({**found, "APART": 0.1, "DRIFT": 0.1}, base, own) == of(**found)


@pytest.mark.parametrize("name", ["CLIP-I", "CLIP-T", "PRES", "DIV", "APART", "DRIFT", "validation_loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_figures_that_are_no_numbers_have_no_score(name, value):
    """A model of NaN would else have kept all of its class."""
    assert math.isnan(of(**{name: value}))


@pytest.mark.parametrize("lacking", ["PRES", "CLIP-T"])
def test_what_is_not_measured_does_not_count(lacking):
    found = {"CLIP-I": 0.65, "CLIP-T": 0.5, "PRES": 0.3}
    assert score.of_measures({**found, lacking: None}, {**BASE, lacking: None}, OWN) == pytest.approx(0.5**0.5)


def test_a_subject_that_the_base_draws_already_leaves_prompt_and_class():
    assert score.of_measures({"CLIP-I": 0.5, "CLIP-T": 0.25, "PRES": None}, BASE, {**OWN, "CLIP-I": 0.3}) == 0.5
    nothing = dict.fromkeys(("CLIP-I", "CLIP-T", "PRES"))
    assert score.of_measures(nothing, nothing, nothing) == 0


def test_of_losses_less_is_more_and_the_class_has_its_weight():
    found = {score.SUBJECT_LOSS: 0.2, score.CLASS_LOSS: 0.1}
    assert score.of_losses(found, 0.5) == pytest.approx(-0.25)
    assert score.of_losses({score.SUBJECT_LOSS: 0.2}, 0.5) == pytest.approx(-0.2)
