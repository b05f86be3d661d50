"""The figures of a run as lines: what is written is read, what a run has lost is dropped, and no fault ends a run."""

import json

import pytest

from dreambooth.run.report import progress
from dreambooth.run.report.progress import Progress, Row


def test_what_is_written_is_read(tmp_path):
    written = Progress(tmp_path, 0)
    written.add(1, "training", {"loss": 0.5, "learning_rate": 5e-6})
    written.add(1, "validation", {})
    written.add(2, "training", {"loss": float("nan"), "memory_gb": 1.5})
    assert progress.read(tmp_path) == [
        Row(1, "training", {"loss": 0.5, "learning_rate": 5e-6}),
        Row(1, "validation", {}),
        Row(2, "training", {"memory_gb": 1.5}),
    ]
    lines = (tmp_path / progress.FILE).read_text().splitlines()
    assert json.loads(lines[2]) == {"step": 2, "training": {"loss": None, "memory_gb": 1.5}}  # JSON has no NaN


def test_a_resumed_run_keeps_its_own_lines_and_drops_those_that_were_lost(tmp_path):
    first = Progress(tmp_path, 0)
    for step in range(1, 6):
        first.add(step, "training", {"loss": step})
    again = Progress(tmp_path, 3)
    again.add(4, "training", {"loss": 40})
    assert [(row.step, row.figures["loss"]) for row in progress.read(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    Progress(tmp_path, 0)
    assert progress.read(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        "",
        "no JSON",
        "[1]",
        '{"step": 3}',
        '{"training": {"loss": 1}}',
        '{"step": "3", "training": {"loss": 1}}',
        '{"step": -1, "training": {}}',
        '{"step": true, "training": {}}',
        '{"step": 3, "training": {"loss": "high"}}',
        '{"step": 3, "training": [1]}',
        '{"step": 3, "training": {"loss": 0.5',
        "[" * 100_000,
        "\0\ud7ff",
    ],
)
def test_a_line_that_is_none_of_ours_is_left_out(tmp_path, line):
    own = '{"step": 1, "training": {"loss": 0.5}}\n'
    (tmp_path / progress.FILE).write_text(own + line + "\n" + own)
    assert [row.step for row in progress.read(tmp_path)] == [1, 1]


def test_a_number_that_no_float_can_have_is_left_out(tmp_path):
    (tmp_path / progress.FILE).write_text('{"step": 1, "training": {"loss": 1' + "0" * 400 + ', "rate": 1}}\n')
    assert [row.figures for row in progress.read(tmp_path)] in ([], [{"rate": 1.0}])


def test_without_the_file_there_are_no_lines(tmp_path):
    assert progress.read(tmp_path) == []
    (tmp_path / progress.FILE).mkdir()
    assert progress.read(tmp_path) == []


def test_a_file_that_can_not_be_written_ends_with_one_warning(tmp_path, capsys):
    written = Progress(tmp_path, 0)
    (tmp_path / progress.FILE).unlink()
    (tmp_path / progress.FILE).mkdir()
    for step in (1, 2):
        written.add(step, "training", {"loss": 0.5})
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and progress.FILE in line and "the run goes on" in line


def test_a_folder_that_can_not_be_written_ends_with_one_warning(tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    written = Progress(tmp_path / "out", 0)
    written.add(1, "training", {"loss": 0.5})
    assert len(capsys.readouterr().err.splitlines()) == 1
