"""benchmarks.startup: three times, and their ratio."""

import pytest

from benchmarks import startup, subjects


@pytest.mark.slow
def test_the_command_prints_three_rows(twin, capsys):
    startup.main(["--times", "1"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in printed[2:5]] == [
        "python train_dreambooth.py --help",
        "bare import of the libraries",
        "start to first step, mini",
    ]
    assert float(printed[4].split("|")[3]) > 0


def test_a_run_that_fails_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="--instance_data_dir"):
        line = subjects.command_line(subjects.Subject("x", tmp_path, 64, 1, 8), tmp_path / "y", 1)
        startup.time_process("train_dreambooth.py", *line, "--instance_data_dir", "/nowhere")
