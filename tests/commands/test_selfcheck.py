"""python -m dreambooth.selfcheck: its table, its report, its exit code; what it does is tested with its parts."""

import getpass
import json

import pytest
from support.cards import pretend
from support.commands import ROOT, new_python, python

from dreambooth import selfcheck
from dreambooth.run.trials import operations, short_runs
from dreambooth.run.trials.findings import Finding
from dreambooth.system import libraries
from dreambooth.system.devices import cards

END = "The report, to be copied:"


def report_of(text):
    return json.loads(text.split(END)[1])


def test_operations_alone_pass_on_the_cpu():
    done = python("-m", "dreambooth.selfcheck", "--operations")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    report = report_of(done.stdout)
    assert len(report["checks"]) == 6 and {each[3] for each in report["checks"]} == {"pass"}
    assert report["card"] == "no card was checked: this machine shows none"
    assert report["libraries"].startswith("paddlepaddle") and "cores" in report["processor"]
    assert "6 checks, none failed" in done.stdout
    for name in (str(ROOT), f"/{getpass.getuser()}/", "/tmp"):
        assert name not in done.stdout


def run(monkeypatch, capsys, *argv, found=()):
    """The exit code and the text of the command, whose short runs are these findings."""
    monkeypatch.setattr(libraries, "load", lambda readers, verbose: None)
    monkeypatch.setattr(operations, "check_cpu", lambda: iter([Finding("an operation", "cpu", "float32", 0.0, 1e-5)]))
    monkeypatch.setattr(short_runs, "check_runs", lambda folder: iter(found))
    monkeypatch.delenv(short_runs.TF32, raising=False)
    with pytest.raises(SystemExit) as ended:
        selfcheck.main(argv)
    return ended.value.code, capsys.readouterr().out


LACKING = Finding("half precision", "gpu:0", "bfloat16", note="needs 8.0", is_lacking=True)


@pytest.mark.parametrize(
    "found, code, said",
    [
        ([Finding("a run", "cpu", "float32", 0.1, 0.2)], 0, "2 checks, none failed"),
        ([Finding("a run", "cpu", "float32", 0.3, 0.2), LACKING], 1, "3 checks, 1 failed"),
        ([LACKING], 0, "2 checks, none failed"),
    ],
)
def test_the_exit_code_is_1_where_anything_failed(monkeypatch, capsys, found, code, said):
    ended, text = run(monkeypatch, capsys, found=found)
    assert ended == code and said in text
    assert [each[3] for each in report_of(text)["checks"]] == ["pass", *(each.result for each in found)]


def test_operations_alone_make_no_runs(monkeypatch, capsys):
    ended, text = run(monkeypatch, capsys, "--operations", found=[Finding("a run", "cpu", "float32")])
    assert ended == 0 and len(report_of(text)["checks"]) == 1


def test_a_card_that_paddle_cannot_use_is_a_failure_with_its_reason(monkeypatch, capsys):
    reason = "this Paddle finds no usable card; the driver may be too old for it (nvidia-smi shows its version)"
    monkeypatch.setattr(libraries, "reason_against_card", lambda: reason)
    ended, text = run(monkeypatch, capsys)
    assert ended == 1 and f"no card was checked: {reason}" in text
    assert report_of(text)["checks"][1] == ["the card of this machine", "card", "", "fail", None, None, reason]


def test_a_card_is_described_with_its_memory(monkeypatch, capsys):
    pretend(monkeypatch)
    monkeypatch.setattr(
        operations, "check_cards", lambda: iter([Finding("an operation", "gpu:0", "float16", 0.0, 1.0)])
    )
    monkeypatch.setattr(cards, "query", lambda properties: ["Tesla T4, 15360 MiB, 15000 MiB"])
    ended, text = run(monkeypatch, capsys)
    report = report_of(text)
    assert ended == 0 and report["card"] == "Tesla T4, compute capability 7.5, CUDA 11.8, driver 535.104.05"
    assert report["memory"] == "Tesla T4, 15360 MiB, 15000 MiB" and report["compared"] == "the card with the CPU"
    assert [each[1] for each in report["checks"]] == ["cpu", "gpu:0"]


@pytest.mark.slow
def test_all_of_it_passes_on_the_cpu():
    done = new_python("-m", "dreambooth.selfcheck")
    report = report_of(done.stdout)
    assert done.returncode == 0 and len(report["checks"]) == 26
