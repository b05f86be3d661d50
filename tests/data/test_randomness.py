"""Randomness as a function of (seed, purpose, key)."""

import numpy as np
import paddle
import pytest

from dreambooth.data import randomness


def test_the_same_key_gives_the_same_numbers():
    first = randomness.normal(0, "noise", [(3, 1)], (4, 8, 8))
    randomness.normal(7, "noise", [(0, 0)], (4, 8, 8))
    assert np.array_equal(randomness.normal(0, "noise", [(3, 1)], (4, 8, 8)), first)


@pytest.mark.parametrize(
    "seed, purpose, key",
    [(1, "noise", (3, 1)), (2**32, "noise", (3, 1)), (0, "latent", (3, 1)), (0, "noise", (1, 3)), (0, "noise", (3, 2))],
)
def test_another_seed_purpose_or_key_gives_other_numbers(seed, purpose, key):
    mine, other = randomness.normal(0, "noise", [(3, 1)], (1000,)), randomness.normal(seed, purpose, [key], (1000,))
    assert abs(np.corrcoef(mine[0], other[0])[0, 1]) < 0.15


def test_a_row_does_not_depend_on_what_is_drawn_beside_it():
    keys = [(0, slot, kind) for slot in range(3) for kind in (0, 1)]
    together = randomness.normal(5, "noise", keys, (2, 3))
    assert together.shape == (6, 2, 3)
    for key, row in zip(keys, together):
        assert np.array_equal(randomness.normal(5, "noise", [key], (2, 3))[0], row)
    assert np.array_equal(randomness.normal(5, "noise", keys[::-1], (2, 3)), together[::-1])


def test_a_whole_number_does_not_depend_on_what_is_drawn_beside_it():
    keys = [(0, slot) for slot in range(20)]
    alone = [randomness.integers(5, "timestep", [key], 1000)[0] for key in keys]
    assert randomness.integers(5, "timestep", keys, 1000).tolist() == alone


def test_normal_numbers_are_float32_with_mean_0_and_deviation_1():
    numbers = randomness.normal(0, "noise", [(step, slot) for step in range(25) for slot in range(4)], (1000,))
    assert numbers.dtype == np.float32
    assert abs(numbers.mean()) < 0.02 and abs(numbers.std() - 1) < 0.02
    assert abs(numbers.mean(axis=1)).max() < 0.2


def test_whole_numbers_are_spread_evenly_below_their_bound():
    counts = np.bincount(randomness.integers(0, "timestep", [(step,) for step in range(4000)], 4))
    assert len(counts) == 4 and counts.min() > 880 and counts.max() < 1120


def test_pick_goes_through_all_before_it_repeats_one():
    turns = [[randomness.pick(0, "order", 7, 7 * turn + position) for position in range(7)] for turn in range(20)]
    assert all(sorted(turn) == list(range(7)) for turn in turns)
    assert turns[0] != turns[1] and len({tuple(turn) for turn in turns}) > 15


def test_pick_does_not_depend_on_the_order_of_the_calls():
    forward = [randomness.pick(0, "order", 5, index) for index in range(500)]
    randomness._permutation.cache_clear()
    assert [randomness.pick(0, "order", 5, index) for index in reversed(range(500))] == forward[::-1]


def draw_one_of_each():
    randomness._permutation.cache_clear()
    return [
        randomness.normal(0, "noise", [(1, 2)], (3,)).tolist(),
        randomness.integers(0, "timestep", [(1, 2)], 1000).tolist(),
        randomness.pick(0, "order", 5, 3),
    ]


def global_numbers(seed, between=lambda: None):
    np.random.seed(seed)
    paddle.seed(seed)
    between()
    return np.random.random(3).tolist(), paddle.rand([3]).tolist()


def test_no_global_state_is_touched():
    assert global_numbers(1, between=draw_one_of_each) == global_numbers(1)


def test_no_global_state_is_needed():
    drawn = []
    for seed in (1, 2):
        global_numbers(seed, between=lambda: drawn.append(draw_one_of_each()))
    assert drawn[0] == drawn[1]
