"""Short runs and their comparison: which runs are made where, what passes, and what a failure says."""

import math
import subprocess
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import test_gpu
from support.cards import pretend
from support.commands import ROOT, python

from dreambooth.config.learning_sections import OptimizerName
from dreambooth.run.trials import short_runs
from dreambooth.run.trials.short_runs import Case, Outcome, Place


def done(result):
    future = Future()
    future.set_exception(result) if isinstance(result, Exception) else future.set_result(result)
    return future


def outcome(shift=0.0, losses=(0.5, 0.4), folder=Path(), names=("unet.a", "unet.b")):
    weights = {name: np.full(4, number + shift, np.float32) for number, name in enumerate(names)}
    return Outcome(folder, list(losses), weights, moved=0.1)


CASE = Case("LoRA", "adamw")


@pytest.mark.parametrize(
    "found, differences, results",
    [
        (outcome(), (0.0, 0.0), ["pass", "pass"]),
        (outcome(shift=0.0005), (0.0, 0.005), ["pass", "pass"]),
        (outcome(shift=0.01), (0.0, 0.1), ["pass", "fail"]),
        (outcome(losses=(0.5, 0.4004)), (1e-3, 0.0), ["fail", "pass"]),
        (outcome(losses=(math.nan, 0.4)), (math.nan, 0.0), ["fail", "pass"]),
        (outcome(losses=(0.5, math.nan)), (math.nan, 0.0), ["fail", "pass"]),
        (outcome(shift=math.nan), (0.0, math.nan), ["pass", "fail"]),
        (outcome(names=("unet.a",)), (0.0, math.inf), ["pass", "fail"]),
    ],
)
def test_losses_and_weights_are_compared_with_their_bounds(found, differences, results):
    rows = list(short_runs.compare_runs(CASE, "gpu:0", done(found), done(outcome())))
    assert [row.check for row in rows] == ["LoRA, adamw: loss", "LoRA, adamw: weights"]
    assert [row.difference for row in rows] == pytest.approx(differences, rel=1e-3, abs=1e-6, nan_ok=True)
    assert [row.result for row in rows] == results


def test_a_bound_belongs_to_its_precision():
    passed = set()
    for precision in short_runs.PRECISIONS:
        case = CASE._replace(precision=precision)
        _, row = short_runs.compare_runs(case, "gpu:0", done(outcome(shift=0.01)), done(outcome()))
        passed |= {precision} if row.result == "pass" else set()
    assert passed == {"tf32", "float16", "bfloat16"}


@pytest.mark.parametrize(
    "found, expected",
    [(RuntimeError("ended"), outcome()), (outcome(), RuntimeError("ended")), (outcome(losses=(0.5,)), outcome())],
)
def test_a_run_that_ended_early_fails_with_its_reason(found, expected):
    [row] = short_runs.compare_runs(CASE, "cpu", done(found), done(expected))
    assert row.result == "fail" and row.note


class StandIn:
    """Runs that are noted, and not made."""

    def __init__(self, monkeypatch, resumed=0.0, drawn=0.0):
        self.trained, self.drawn = [], []
        monkeypatch.setattr(Place, "train", lambda place, case, *flags, is_kept=False: self.train(place, case, flags))
        monkeypatch.setattr(Place, "draw", lambda place, model: self.draw(place, model))
        self.shifts = {"resumed": resumed, "drawn": drawn}

    def train(self, place, case, flags):
        self.trained.append((place.name, case, flags))
        return outcome(shift=self.shifts["resumed"] if flags else 0.0, folder=Path(f"/runs/{place.name}/{case.name}"))

    def draw(self, place, model):
        self.drawn.append((place.name, str(model)))
        picture = np.linspace(0, 200, 64, dtype=np.float32)
        return picture + (self.shifts["drawn"] if len(self.drawn) > 1 else 0.0)


def test_without_a_card_the_cpu_is_compared_with_its_oldest_code(monkeypatch, tmp_path):
    runs = StandIn(monkeypatch)
    rows = list(short_runs.check_runs(tmp_path))
    cases = [Case(method, optimizer) for method in short_runs.METHODS for optimizer in get_args(OptimizerName)]
    trained = [(place, case) for place, case, flags in runs.trained if not flags]
    assert sorted(trained) == sorted((place, case) for case in cases for place in ("cpu", "old"))
    assert len(rows) == 2 * len(cases) + 2 and {row.result for row in rows} == {"pass"}
    assert {row.device for row in rows} == {"cpu"}
    [(place, _, flags)] = [each for each in runs.trained if each[2]]
    assert (place, flags) == ("cpu", ("--resume_from_checkpoint", "/runs/cpu/UNet, adamw/checkpoint-1"))
    assert runs.drawn == [("cpu", "/runs/old/UNet, adamw"), ("old", "/runs/old/UNet, adamw")]


@pytest.mark.parametrize(
    "capability, more",
    [("6.1", []), ("7.5", ["float16"]), ("8.6", ["tf32", "float16", "bfloat16"])],
)
def test_a_card_is_compared_with_the_cpu_in_each_precision_that_it_has(monkeypatch, tmp_path, capability, more):
    pretend(monkeypatch, capability=capability)
    runs = StandIn(monkeypatch)
    rows = list(short_runs.check_runs(tmp_path))
    trained = {(place, case) for place, case, flags in runs.trained if not flags}
    assert {case.precision for place, case in trained if place == "gpu:0"} == {"float32", *more}
    assert {(case.method, case.precision) for place, case in trained if place == "gpu:0"} == {
        (method, precision) for method in short_runs.METHODS for precision in ("float32", *more)
    }
    assert {case.precision for place, case in trained if place == "cpu"} == {"float32"}
    assert {row.device for row in rows} == {"gpu:0"} and {row.result for row in rows} == {"pass"}
    # what test_gpu.py looks for on such a card
    names = {(name, "float32") for name in test_gpu.IN_FLOAT32}
    names |= {(name, precision) for name in test_gpu.IN_OTHERS for precision in more}
    assert {(row.check, row.precision) for row in rows} == names


def test_a_resumed_run_has_the_same_bits_on_the_cpu_and_nearly_so_on_a_card(monkeypatch, tmp_path):
    StandIn(monkeypatch, resumed=0.0005)
    [row] = [row for row in short_runs.check_runs(tmp_path) if "resumed" in row.check]
    assert row.result == "fail" and row.bound == 0.0
    pretend(monkeypatch)
    [row] = [row for row in short_runs.check_runs(tmp_path) if "resumed" in row.check]
    assert row.result == "pass" and row.bound > 0.0


@pytest.mark.parametrize("shift, result", [(0.5, "pass"), (3.0, "fail")])
def test_drawings_differ_by_less_than_a_level(monkeypatch, tmp_path, shift, result):
    StandIn(monkeypatch, drawn=shift)
    [row] = [row for row in short_runs.check_runs(tmp_path) if row.check == "drawing"]
    assert row.result == result and row.difference == pytest.approx(shift)


def test_a_picture_of_one_colour_fails(monkeypatch, tmp_path):
    StandIn(monkeypatch)
    monkeypatch.setattr(Place, "draw", lambda place, model: np.zeros([4, 4, 3]))
    [row] = [row for row in short_runs.check_runs(tmp_path) if row.check == "drawing"]
    assert row.result == "fail" and "one colour" in row.note


def test_a_process_gets_its_place_and_its_precision(monkeypatch, tmp_path):
    started = []

    def run(line, env, **named):
        started.append((line[1:], env))
        return SimpleNamespace(returncode=3, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv(short_runs.TF32, "0")  # as this command itself has it
    place = Place("cpu", tmp_path, {"CUDA_VISIBLE_DEVICES": ""})
    for precision in short_runs.PRECISIONS:
        with pytest.raises(RuntimeError, match="train_dreambooth.py ended with 3"):
            place.train(Case("UNet", "adafactor", precision))
    flags, environments = zip(*started)
    assert [line[line.index("--mixed_precision") + 1] if "--mixed_precision" in line else None for line in flags] == [
        None, None, "fp16", "bf16"
    ]  # fmt: skip
    assert [environment.get(short_runs.TF32) for environment in environments] == ["0", None, None, None]
    assert all(each["CUDA_VISIBLE_DEVICES"] == "" for each in environments)
    assert all(line[line.index("--optimizer") + 1] == "adafactor" for line in flags)


@pytest.fixture
def forked(monkeypatch):
    """Processes that have the libraries already."""
    monkeypatch.setattr(subprocess, "run", lambda line, **named: python(*line[1:]))


def test_a_short_run_of_the_embedded_model_is_made_resumed_and_drawn_with(forked, tmp_path):
    place = Place("cpu", tmp_path, {})
    whole = place.train(CASE, is_kept=True)
    assert len(whole.losses) == 2 and all(0 < each < 5 for each in whole.losses)
    assert whole.moved > 0 and all(name.startswith("unet.") for name in whole.weights)
    [row] = short_runs.check_resume(CASE, place, done(whole))
    assert row.result == "pass", row.note
    picture = place.draw(whole.folder)
    assert picture.shape == (64, 64, 3) and picture.std() > 1
    assert {each.name for each in tmp_path.iterdir()} == {"cpu.png", whole.folder.name}


def test_what_a_failed_process_says_is_in_the_finding(forked, monkeypatch, tmp_path):
    monkeypatch.setitem(short_runs.METHODS, "UNet", ("--learning_rate", "-1"))
    with pytest.raises(RuntimeError) as ended:
        Place("cpu", tmp_path, {}).train(Case("UNet", "adamw"))
    [row] = short_runs.compare_runs(Case("UNet", "adamw"), "cpu", done(ended.value), done(outcome()))
    assert row.note.startswith("train_dreambooth.py ended with 2: error: --learning_rate -1")
    assert str(ROOT) not in row.note and str(tmp_path) not in row.note
