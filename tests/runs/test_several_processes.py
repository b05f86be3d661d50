"""Whole runs on several processes: one result, one voice, and an end for all when one ends."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support import forks
from support.commands import LAUNCHER, ROOT, launch, launch_by_paddle, python, train
from support.weights import assert_same

from dreambooth.files import records


def test_two_processes_write_a_checkpoint_and_only_the_first_prints(flags, tmp_path):
    line = flags(max_train_steps=2, save_steps=1, gradient_accumulation_steps=2, gradient_checkpointing=True)
    done = launch_by_paddle(tmp_path, "train_dreambooth.py", *line)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = sorted((tmp_path / "launcher").glob("workerlog.*"))
    assert "learning  unet" in first.read_text() and "learning" not in second.read_text()
    assert len(list((tmp_path / "out/logs").glob("vdlrecords*"))) == 1
    assert records.read_state(tmp_path / "out/checkpoint-1")["course"]


def test_two_processes_resume_bit_for_bit(flags, tmp_path):
    common = dict(max_train_steps=3, gradient_accumulation_steps=2, save_steps=1, random_flip=True)
    again = dict(common, output_dir=tmp_path / "again", resume_from_checkpoint=tmp_path / "out/checkpoint-1")
    for line in (flags(**common), flags(**again)):
        done = launch(tmp_path, "train_dreambooth.py", *line)
        assert done.returncode == 0, done.stdout + done.stderr
    assert_same(tmp_path / "out/unet", tmp_path / "again/unet")


def test_two_launchers_on_the_loopback_address_make_one_run(flags, tmp_path):
    [port] = forks.free_ports(1)
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, str(LAUNCHER), "--master", f"127.0.0.1:{port}"),
                *("--nnodes", "2", "--rank", str(node), "--nproc_per_node", "1"),
                *("--log_dir", str(tmp_path / f"launcher-{node}"), "train_dreambooth.py", *flags()),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "x 2 processes" in outputs[0] + outputs[1]
    assert (tmp_path / "out/model_index.json").exists()


def workers_of(launcher):
    """The ids of the processes that a launcher started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True).stdout
    return sorted(int(each) for each in found.split())


def start_long_run(flags, tmp_path):
    launcher = subprocess.Popen(
        [
            *(sys.executable, str(LAUNCHER), "--nproc_per_node", "2"),
            *("--log_dir", str(tmp_path / "launcher"), "train_dreambooth.py"),
            *flags(max_train_steps=100000, save_steps=5, checkpoints_total_limit=2, logging_steps=1000),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.time() + 120
    while not list((tmp_path / "out").glob("checkpoint-*")) and time.time() < deadline:
        time.sleep(0.2)
    assert launcher.poll() is None
    return launcher


def test_when_one_process_dies_all_end_and_the_run_can_be_resumed(flags, tmp_path):
    launcher = start_long_run(flags, tmp_path)
    workers = workers_of(launcher.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert not any(os.path.exists(f"/proc/{worker}") for worker in workers)
    step = max(records.read_state(folder)["step"] for folder in (tmp_path / "out").glob("checkpoint-*"))
    done = launch(tmp_path, "train_dreambooth.py", *flags(max_train_steps=step + 1, resume_from_checkpoint="latest"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_signal_to_one_process_stops_all_at_the_same_step(flags, tmp_path):
    launcher = start_long_run(flags, tmp_path)
    os.kill(workers_of(launcher.pid)[1], signal.SIGTERM)
    out = launcher.communicate(timeout=60)[0]
    assert launcher.returncode != 0
    assert "stopped by a signal after step" in out and "Traceback" not in out


DIFFERENT = """
import os, sys; sys.path.insert(0, {root!r}); os.chdir({root!r})
import train_dreambooth
from dreambooth.system import console
console.run_command(train_dreambooth.main, {lines!r}[int(os.environ["PADDLE_TRAINER_ID"])])
"""


@pytest.mark.parametrize("flag", ["instance_data_dir", "class_data_dir"])
def test_machines_with_different_pictures_end_in_one_line(flags, class_pictures, tmp_path, flag):
    """The second process has another folder than the first, as on machines that share no disk."""
    prior = dict(with_prior_preservation=True, class_prompt="a dog", num_class_images=2)
    lines = [
        flags(**dict(prior, class_data_dir=tmp_path / "class")),
        flags(**dict(prior, class_data_dir=tmp_path / "b")),
    ]
    if flag == "instance_data_dir":
        lines[1] = flags(**dict(prior, class_data_dir=tmp_path / "class", instance_data_dir=class_pictures))
    (tmp_path / "different.py").write_text(DIFFERENT.format(root=str(ROOT), lines=lines))
    done = launch(tmp_path, tmp_path / "different.py")
    assert done.returncode != 0
    log = (tmp_path / "launcher/workerlog.0").read_text()
    assert f"error: --{flag}" in log and "same" in log and "Traceback" not in log
    assert not (tmp_path / "out/model_index.json").exists()


def test_machines_with_different_checkpoints_end_in_one_line(flags, tmp_path):
    train(flags(save_steps=1))
    common = dict(max_train_steps=3, allow_changes=True)  # one process wrote them
    lines = [flags(resume_from_checkpoint=tmp_path / f"out/checkpoint-{step}", **common) for step in (1, 2)]
    (tmp_path / "different.py").write_text(DIFFERENT.format(root=str(ROOT), lines=lines))
    launch(tmp_path, tmp_path / "different.py")
    log = (tmp_path / "launcher/workerlog.0").read_text()
    assert "error: --resume_from_checkpoint: not all processes see the same checkpoint" in log


@pytest.mark.parametrize("cards", ["0", "0,1"])
def test_missing_cards_are_named(flags, tmp_path, cards, monkeypatch):
    import paddle

    if paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count():
        pytest.skip("this machine has cards")
    monkeypatch.setenv("FLAGS_selected_gpus", cards)
    done = python("train_dreambooth.py", *flags())
    assert done.returncode == 2 and f"--gpus {cards}" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
