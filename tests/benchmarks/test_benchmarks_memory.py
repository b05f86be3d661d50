"""benchmarks.memory: the peaks of processes."""

import pytest

from benchmarks import memory, subjects
from dreambooth.config import parser as config_parser


def test_the_peak_is_that_of_the_process():
    small, _ = memory.measure_process("-c", "pass")
    large, seconds = memory.measure_process("-c", "import time; kept = b'1' * 200_000_000; time.sleep(0.3)")
    assert small < 0.1 < 0.2 < large < 0.7 and seconds > 0


def test_a_process_that_fails_is_an_error_with_its_words():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        memory.measure_process("-c", "1 / 0")


@pytest.fixture
def small_xl(xl_twin, monkeypatch):
    """A twin in the place of Stable Diffusion XL."""
    monkeypatch.setattr(subjects, "XL", xl_twin)


@pytest.mark.slow
def test_the_command_compares_runs_with_the_bare_loop(twin, capsys):
    memory.main(["--model", "mini", "--runs", "with --lora_rank 4", "--batch", "1"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("mini, 64 x 64, batch 1") and "| the bare loop | " in printed[4]
    name, peak, ratio, seconds = (each.strip() for each in printed[5].strip("|").split("|"))
    assert name == "with --lora_rank 4" and 0.1 < float(peak) < 5 and 0.5 < float(ratio) < 2
    assert 0.01 < float(seconds) < 5


@pytest.mark.slow
def test_a_model_of_the_shape_of_xl_has_no_bare_loop(small_xl, capsys):
    memory.main(["--model", "xl", "--resolution", "64"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("xl, 64 x 64, batch 1") and len([row for row in printed if row.startswith("| ")]) == 3
    name, peak, ratio, seconds = (each.strip() for each in printed[4].strip("|").split("|"))
    assert name.endswith("--gradient_checkpointing") and ratio == "–"
    assert 0.1 < float(peak) < 5 and 0.01 < float(seconds) < 20


@pytest.mark.slow
def test_the_cache_is_measured_with_more_and_more_pictures(capsys):
    memory.main(["--cache", "--counts", "3"])
    printed = capsys.readouterr().out.splitlines()
    counts = [line.split("|")[1].strip() for line in printed[2:4]]
    assert counts == ["1", "3"] and all(float(each) < 1e9 for each in printed[3].split("|")[2:5])


def test_every_row_is_a_command_line_of_the_tool(twin, tmp_path):
    subject = subjects.Subject("twin", twin, 64, 1, 8)
    for more in memory.RUNS.values():
        assert config_parser.read_config(subjects.command_line(subject, tmp_path, 1, *more), "")
