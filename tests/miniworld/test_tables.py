"""The tables of the study: means, spreads over seeds, and the front."""

import numpy as np
import pytest

from miniworld import tables
from miniworld.tables import DRIFT, SHARE, Value


def test_mean_and_table_omit_unknown_figures():
    mean = tables.mean_figures([{"CLIP-I": 0.5, "PRES": None}, {"CLIP-I": 0.75, "PRES": None}])
    assert mean == {"CLIP-I": 0.625, "PRES": None}
    table = tables.table({"base": mean, "prior": {"CLIP-I": 0.1, "PRES": 0.2}}).splitlines()
    assert table == ["| | base | prior |", "|---|---|---|", "| CLIP-I | 0.62 | 0.10 |", "| PRES | – | 0.20 |"]


def test_the_spread_is_that_of_the_seeds_and_not_of_the_subjects():
    same = {seed: [{"CLIP-I": 0.2}, {"CLIP-I": 0.8}] for seed in (0, 1)}
    assert tables.values_of(same)["CLIP-I"] == Value(pytest.approx(0.5), pytest.approx(0.0))
    other = {0: [{"CLIP-I": 0.4}], 1: [{"CLIP-I": 0.6}]}
    assert tables.values_of(other)["CLIP-I"] == Value(pytest.approx(0.5), pytest.approx(0.02**0.5))
    assert tables.values_of({0: [{"CLIP-I": 0.4, "PRES": None}]}) == {"CLIP-I": Value(0.4), "PRES": Value(None)}
    assert [Value(0.5).text, Value(0.5, 0.25).text, Value(None).text] == ["0.50", "0.50 ± 0.25", "–"]


def test_shares_are_those_of_the_way_from_the_base_to_the_subject():
    base, real = {"CLIP-I": 0.5, "PRES": 0.3}, {"CLIP-I": 0.9, "PRES": 0.7}
    found = tables.with_shares({"CLIP-I": 0.8, "PRES": 0.4}, base, real)
    assert found == {SHARE: pytest.approx(0.75), DRIFT: pytest.approx(0.25), "CLIP-I": 0.8, "PRES": 0.4}


def test_rows_that_lack_a_figure_have_a_dash():
    rows = {"base": {SHARE: Value(0.0)}, "run": {SHARE: Value(0.5, 0.1), "minutes": Value(2.0)}}
    assert tables.table_of_rows(rows).splitlines()[2:] == ["| base | 0.00 | – |", "| run | 0.50 ± 0.10 | 2.00 |"]


def test_the_front_shows_rows_with_both_shares_alone():
    rows = {"run": {SHARE: Value(0.5, 0.1), DRIFT: Value(0.2)}, "other": {SHARE: Value(0.9)}}
    one, none = np.asarray(tables.front(rows)), np.asarray(tables.front({"other": rows["other"]}))
    assert (one != 255).any() and one.shape[1] > none.shape[1] - 1
