"""benchmarks.step: a whole run with a bare loop between its steps, both timed, and every hook removed."""

import numpy as np
import paddle
import pytest
from support.families import load_family

from benchmarks import step, subjects
from dreambooth.models import loading
from dreambooth.system import machine
from dreambooth.training.team import Team
from dreambooth.training.updates import Updates


@pytest.fixture
def subject(twin):
    return subjects.Subject("twin", twin, 32, 1, 2)


def test_each_step_has_a_floor(subject):
    def hooks():
        return loading.load_family, Team.go_through, Updates.__init__

    before = hooks()
    pairs, speed, limit = step.measure(subject, 4)
    assert len(pairs) == 4 and all(floor > 0 and whole > 0 for floor, whole in pairs)
    assert hooks() == before
    assert 0 < speed < limit


def test_the_first_steps_are_left_out_and_floors_belong_to_the_step_after():
    watch = step.Stopwatch(2)
    watch.floors, watch.steps = [1, 2, 3], [10, 20, 30, 40]  # the first step has no floor
    assert watch.pairs() == [(2, 30), (3, 40)]


def test_the_bare_loop_moves_the_same_weights(subject, monkeypatch):
    moved = []
    bare = step.Stopwatch.make_bare_step

    def watched(self, adamw):
        before = self.family.denoiser.conv_in.weight.numpy().copy()
        bare(self, adamw)
        moved.append(float(np.abs(self.family.denoiser.conv_in.weight.numpy() - before).max()))
        assert all(each.grad is None for each in self.family.denoiser.parameters())

    monkeypatch.setattr(step.Stopwatch, "make_bare_step", watched)
    step.measure(subject, 2)
    assert moved and all(each > 0 for each in moved)


def test_beside_a_lora_the_bare_loop_is_that_of_the_whole_network(subject, monkeypatch):
    seen = []
    bare = step.Stopwatch.make_bare_step

    def watched(self, adamw):
        before = [each.numpy().copy() for each in self.updates.parameters]
        seen.append(len(adamw._parameter_list) - len(self.family.denoiser.parameters()))
        bare(self, adamw)
        assert all((each.numpy() == old).all() for each, old in zip(self.updates.parameters, before))

    monkeypatch.setattr(step.Stopwatch, "make_bare_step", watched)
    pairs, *_ = step.measure(subject, 2, "--lora_rank", "2")
    assert len(pairs) == 2 and set(seen) == {0}


def test_operations_are_counted_by_layer(twin):
    linear, convolution = paddle.nn.Linear(5, 7), paddle.nn.Conv2D(4, 6, 3, groups=2, padding=1)
    for layer, rows, expected in (
        (linear, paddle.ones([3, 2, 5]), 2 * 3 * 2 * 5 * 7),
        (convolution, paddle.ones([2, 4, 8, 8]), 2 * 2 * 6 * 64 * 2 * 9),
    ):
        with step.counted(paddle.nn.Sequential(layer)) as counts:
            layer(rows)
        assert counts == [expected]
        layer(rows)
        assert len(counts) == 1  # the hooks are gone
    attention = next(each for each in load_family(twin).denoiser.sublayers() if hasattr(each, "to_q"))
    width = attention.to_q.weight.shape[0]
    with step.counted(paddle.nn.Sequential(attention)) as counts:
        attention(paddle.ones([2, 9, width]))
    assert sum(counts) == 4 * 2 * 2 * 9 * width * width + 4 * 2 * 9 * 9 * width  # four matrices, and the products


def test_workers_have_the_whole_batch_together(subject, monkeypatch):
    monkeypatch.setattr(machine, "split", lambda weights: machine.Split(2, 1))
    rows = []
    bare = step.Stopwatch.make_bare_step
    monkeypatch.setattr(
        step.Stopwatch, "make_bare_step", lambda self, adamw: (rows.append(len(self.inputs[0])), bare(self, adamw))
    )
    pairs, speed, limit = step.measure(subjects.Subject("twin", subject.folder, 32, 4, 2), 2)
    assert len(pairs) == 2 and set(rows) == {4} and 0 < speed < limit


def test_the_command_prints_the_ratio(twin, capsys):
    step.main(["--model", str(twin), "--resolution", "32", "--batch", "1", "--steps", "3"])
    printed = capsys.readouterr().out.splitlines()
    assert (
        printed[0].startswith("| model | size | batch | floor, s |") and "32 x 32" in printed[2] and len(printed) == 5
    )
