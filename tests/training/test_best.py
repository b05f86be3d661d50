"""The best weights: which validation they are of, when patience ends, and their state."""

import json
import math

import paddle
import pytest

from dreambooth.training.best import Best


def run(scores, is_kept=True, patience=None, best=None, first=0):
    """Validations every ten updates, whose weights are their step."""
    named = best._named if best else {"weight": paddle.zeros([2])}
    best = best or Best(is_kept, patience, named)
    for number, score in enumerate(scores, first):
        paddle.assign(paddle.full([2], 10.0 * number), named["weight"])
        best.add(10 * number, {"score": score})
    return best, named


def test_the_first_of_the_best_scores_counts_and_the_base_does_not():
    best, named = run([9.0, 1.0, 3.0, 3.0, 2.0])
    assert best.best.step == 20 and best.record["saved_step"] == 20
    with best.in_place():
        assert named["weight"].tolist() == [20, 20]
    assert named["weight"].tolist() == [40, 40]
    assert "update 20, of 4 validations, with the score 3.0000" in best.in_words


def test_scores_below_zero_and_scores_that_are_no_numbers():
    best, _ = run([-9.0, -3.0, -1.0, math.nan, math.inf])
    assert best.best.step == 20


@pytest.mark.parametrize(
    "scores, is_over", [([5, 1], False), ([5, 1, 0], False), ([5, 1, 0, 1], True), ([5, 1, 0, 2], False)]
)
def test_patience_ends_after_so_many_validations_without_a_better_score(scores, is_over):
    assert run(scores, patience=2)[0].is_over == is_over
    assert not run(scores)[0].is_over


def test_a_score_of_nothing_is_no_beginning_to_count_from():
    """A slow start is no end: the first validations of a CLIP may all be worth nothing."""
    assert not run([0, 0, 0, 0, 0], patience=1)[0].is_over
    assert not run([0, 0, 0, 0.1], patience=1)[0].is_over and run([0, 0, 0, 0.1, 0.1], patience=1)[0].is_over
    assert run([-9, -3, -4], patience=1)[0].is_over  # losses


def test_what_is_no_number_is_none_in_the_record():
    best, _ = run([0.5, math.nan, math.inf])
    assert [each["score"] for each in best.record["validations"]] == [0.5, None, None]
    json.dumps(best.record, allow_nan=False)


def test_without_being_kept_there_is_a_history_alone():
    best, named = run([0.0, 3.0, 1.0], is_kept=False)
    assert best.in_words is None and len(best.record["validations"]) == 3
    tensors, state = best.state()
    assert tensors == {} and len(state["history"]) == 3 and best.stateful == {"best": best}
    assert Best(False, None, {}, measures=None).stateful == {}
    with best.in_place():
        assert named["weight"].tolist() == [20, 20]
    assert run([], is_kept=False)[0].record == {} and run([])[0].in_words is None


def test_a_validation_counts_once_and_one_without_figures_not_at_all():
    best, _ = run([0.0, 3.0])
    best.add(10, {"score": 99.0})
    best.add(20, {})
    assert len(best.history) == 2 and best.lacks(20) and not best.lacks(10)


def test_it_goes_on_from_its_state_as_if_it_had_not_stopped():
    whole, named = run([0.0, 2.0, 5.0, 1.0, 4.0], patience=2)
    half, _ = run([0.0, 2.0, 5.0], patience=2)
    tensors, state = half.state()
    other = Best(True, 2, {"weight": paddle.zeros([2])})
    other.restore({name: each.numpy() for name, each in tensors.items()}, json.loads(json.dumps(state)))
    run([1.0, 4.0], best=other, first=3)
    assert other.history == whole.history and other.is_over == whole.is_over is True
    with other.in_place(), whole.in_place():
        assert other._named["weight"].tolist() == named["weight"].tolist() == [20, 20]


def test_a_state_of_other_measures_is_left_and_one_without_weights_refused(capsys):
    whole, _ = run([0.0, 2.0])
    tensors, state = whole.state()
    other = Best(True, 2, {"weight": paddle.zeros([2])}, measures="of another CLIP")
    other.restore(tensors, state)
    assert other.history == [] and "were measured otherwise" in capsys.readouterr().err
    with pytest.raises(ValueError, match="not the best weights"):
        Best(True, 2, {"weight": paddle.zeros([2])}).restore({}, state)


def test_a_state_without_validations_is_restored_too():
    empty = Best(True, None, {"weight": paddle.zeros([2])})
    other = Best(True, None, {"weight": paddle.zeros([2])})
    other.restore({}, empty.state()[1])
    assert other.history == [] and other.best is None
