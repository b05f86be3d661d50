"""benchmarks.startup: three waits, and their ratio."""

import pytest

from benchmarks import startup, subjects


def test_the_command_prints_three_rows(twin, capsys):
    startup.main(["--times", "1"])
    said = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in said[2:5]] == [
        "python train_dreambooth.py --help",
        "bare import of the libraries",
        "start to first step, mini",
    ]
    assert float(said[4].split("|")[3]) > 0


def test_a_run_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="--instance_data_dir"):
        more = ("--instance_data_dir", "/nowhere")
        startup.seconds("train_dreambooth.py", *subjects.run_flags("x", "y", 64, 1, 1), *more)
