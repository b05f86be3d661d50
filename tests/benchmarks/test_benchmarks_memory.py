"""benchmarks.memory: peaks of processes, told by the system."""

import pytest

from benchmarks import memory


def test_the_peak_is_that_of_the_process():
    small, _ = memory.peak_of("-c", "pass")
    large, seconds = memory.peak_of("-c", "import time; held = b'1' * 200_000_000; time.sleep(0.3)")
    assert small < 0.1 < 0.2 < large < 0.7 and seconds > 0


def test_a_process_that_fails_is_an_error_with_its_words():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        memory.peak_of("-c", "1 / 0")


def test_the_command_compares_runs_with_the_bare_loop(twin, capsys):
    memory.main(["--model", "mini", "--runs", "with --lora_rank 4", "--batch", "1"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("mini, 64 x 64, batch 1") and "| the bare loop | " in said[4]
    name, peak, ratio = (each.strip() for each in said[5].strip("|").split("|"))
    assert name == "with --lora_rank 4" and 0.1 < float(peak) < 5 and 0.5 < float(ratio) < 2


def test_the_cache_is_measured_with_more_and_more_pictures(capsys):
    memory.main(["--cache", "--counts", "3"])
    said = capsys.readouterr().out.splitlines()
    counts = [line.split("|")[1].strip() for line in said[2:4]]
    assert counts == ["1", "3"] and all(float(each) < 1e9 for each in said[3].split("|")[2:5])


def test_every_row_is_a_command_line_of_the_tool(twin, tmp_path):
    from benchmarks import subjects
    from dreambooth.config.parser import read_config

    for more in memory.RUNS.values():
        assert read_config(subjects.run_flags(twin, tmp_path, 64, 1, 1, *more), "")
