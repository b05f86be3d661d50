"""Paddle's launcher where all cards are hidden."""

from support.commands import LAUNCHER, new_python

SCRIPT = "import os; print('backend', os.environ['PADDLE_DISTRI_BACKEND'], os.environ.get('FLAGS_selected_gpus'))"


def launched(folder, *launcher):
    (folder / "script.py").write_text(SCRIPT)
    flags = ("--nproc_per_node", "2", "--log_dir", folder / "logs")
    done = new_python(*launcher, *flags, folder / "script.py", CUDA_VISIBLE_DEVICES="")
    return done, [path.read_text() for path in sorted((folder / "logs").glob("workerlog.*"))]


def test_processes_are_launched_where_all_cards_are_hidden(tmp_path):
    done, logs = launched(tmp_path, LAUNCHER)
    assert done.returncode == 0, done.stderr
    assert ["backend gloo None" in log for log in logs] == [True, True]


def test_paddles_launcher_alone_fails_there(tmp_path):
    done, _ = launched(tmp_path, "-m", "paddle.distributed.launch")
    assert done.returncode != 0 and "IndexError" in done.stderr
