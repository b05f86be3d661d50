"""Findings: what passes, the row of the table, and a report that names nobody."""

import getpass
import json
import math
import platform
import sys
from pathlib import Path

import pytest
from support.commands import ROOT

from dreambooth.run.trials import findings
from dreambooth.run.trials.findings import Finding


@pytest.mark.parametrize(
    "difference, bound, result",
    [(0.1, 0.2, "pass"), (0.2, 0.2, "pass"), (0.0, 0.0, "pass"), (0.3, 0.2, "fail"), (math.nan, 1.0, "fail"),
     (math.inf, 1.0, "fail"), (None, None, "fail")],
)  # fmt: skip
def test_what_is_within_its_bound_passes(difference, bound, result):
    assert Finding("a check", "cpu", "float32", difference, bound).result == result


def test_what_a_device_lacks_neither_passes_nor_fails():
    finding = Finding("half precision", "gpu:0", "bfloat16", note="needs 8.0", is_lacking=True)
    assert finding.result == "none" and finding.row().splitlines()[1].strip() == "needs 8.0"


def test_the_rows_stand_below_the_header():
    row = Finding("UNet and text encoder, adamw8bit: weights", "gpu:0", "bfloat16", 1.234e-7, 5e-5).row()
    assert len(row) == len(findings.HEADER) and row.split()[-3:] == ["pass", "1.2e-07", "5e-05"]
    for word in ("on", "precision", "result"):
        at = findings.HEADER.index(f" {word} ") + 1
        assert row[at - 1] == " " and row[at] != " "


def test_a_failure_tells_why_in_one_line():
    finding = findings.failed("drawing", "cpu", "float32", RuntimeError("infer.py ended with 2:\n\n  error: no\n"))
    assert finding.result == "fail" and finding.note == "infer.py ended with 2: | error: no"
    assert findings.failed("drawing", "cpu", "float32", "x" * 1000).note == "…" + "x" * 400


NAMES = [
    f"{ROOT}/infer.py: no",
    f"in {sys.prefix}/lib/python3.11/site-packages/paddle/tensor/math.py",
    f"{Path.home()}/pictures/dog.png can't be read",
    "error: /mnt/someone's/model, '/data/my models/x', (/scratch/someone/a-b_c.d/e.json): no",
    "at /paddle/phi/kernels/gpu/conv.cu:12; ~/somewhere/else",
    f"{getpass.getuser()}@{platform.node()} has no room",
]


@pytest.mark.parametrize("text", NAMES)
def test_no_folder_and_no_user_is_named(text):
    found = findings.without_names(text)
    for name in (str(ROOT), sys.prefix, "someone", "scratch", "phi/kernels", "else", platform.node()):
        assert name not in found
    assert getpass.getuser() in ("root", *[name for name in [getpass.getuser()] if name not in found])


def test_the_name_of_a_file_of_code_stays():
    text = '(at ../paddle/phi/backends/gpu/cuda_info.cc:279), File "/home/me/x/math.py", line 3, /home/me/x/my.png'
    assert findings.without_names(text) == '(at ..<path>/cuda_info.cc:279), File "<path>/math.py", line 3, <path>'


def test_what_names_nobody_stays():
    text = "float16/float32 and 1/2 of https://example.org/a: (InvalidArgument) 3 // 2"
    assert findings.without_names(text) == text


def test_the_report_is_json_with_a_line_for_each_finding():
    found = [
        Finding("a", "cpu", "float32", 1.23456e-7, 1e-5),
        Finding("b", "gpu:0", "float16", math.inf, 1e-3),
        findings.failed("c", "gpu:0", "float16", 'no "kernel"'),
    ]
    text = findings.report({"card": "a “T4”", "disk": "3 GB"}, found)
    assert json.loads(text) == {
        "card": "a “T4”",
        "disk": "3 GB",
        "checks": [
            ["a", "cpu", "float32", "pass", 1.23e-07, 1e-05],
            ["b", "gpu:0", "float16", "fail", "inf", 0.001],
            ["c", "gpu:0", "float16", "fail", None, None, 'no "kernel"'],
        ],
    }
    assert sum("gpu:0" in line for line in text.splitlines()) == 2
