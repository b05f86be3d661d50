"""On a card: each check of python -m dreambooth.selfcheck. All other tests run on the CPU, with or without a card."""

import json
import subprocess
import sys
from typing import get_args

import pytest
from support.cards import environment_with_cards, reason_against_cards
from support.commands import ROOT

from dreambooth.config.learning_sections import OptimizerName
from dreambooth.run.trials import operations, short_runs

REASON = reason_against_cards()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no card is tested: {REASON}")

KINDS = "convolution", "matrix product", "attention"
OPERATIONS = [f"{kind}, {way}" for kind in KINDS for way in ("forward", "backward")]
CASES = [f"{method}, {optimizer}" for method in short_runs.METHODS for optimizer in get_args(OptimizerName)]
RUNS = [f"{case}: {part}" for case in CASES for part in ("loss", "weights")]
IN_FLOAT32 = [*RUNS, "UNet: resumed", "drawing"]
IN_OTHERS = [name for name in RUNS if "adamw:" in name]


@pytest.fixture(scope="module")
def report():
    done = subprocess.run(
        [sys.executable, "-m", "dreambooth.selfcheck"],
        cwd=ROOT,
        env=environment_with_cards(),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    print(done.stdout)
    assert "to be copied:" in done.stdout, done.stderr
    return json.loads(done.stdout.split("to be copied:")[1])


def check(report, name, precision):
    """Assert that a check passed on the first card, or is skipped where that lacks the precision."""
    rows = [row for row in report["checks"] if row[1].startswith("gpu") and row[2] == precision]
    if not [row for row in rows if row[0] != "half precision"] and precision != "float32":
        pytest.skip(f"the card has no {precision}: {report['card']}")
    [row, *_] = [row for row in rows if row[0] == name]
    assert row[3] == "pass", row


@pytest.mark.parametrize("precision", operations.BOUNDS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_that_of_the_cpu(report, name, precision):
    check(report, name, precision)


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_a_run_in_float32_is_that_of_the_cpu(report, name):
    check(report, name, "float32")


@pytest.mark.parametrize("precision", [each for each in short_runs.PRECISIONS if each != "float32"])
@pytest.mark.parametrize("name", IN_OTHERS)
def test_a_run_in_another_precision_is_near_that_of_the_cpu(report, name, precision):
    check(report, name, precision)


def test_nothing_failed(report):
    assert [row for row in report["checks"] if row[3] == "fail"] == []
