"""One of two processes dies, hangs, or has bad input alone: all end soon, in one message, and the run goes on later."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.commands import LAUNCHER, ROOT, command_line, python
from support.faults import leftovers

from dreambooth.files import records

pytestmark = pytest.mark.slow

SECONDS = 60  # from the fault to the end of the launcher; it looks every few seconds
SILENCE = 12  # seconds after which a process counts as hung here

# a run whose processes may have other flags, and wait less long for each other
RUN = """
import os, sys
import train_dreambooth
from dreambooth.system import console
from dreambooth.system.devices import watch
watch.SECONDS_OF_SILENCE = {silence}
lines = {lines!r}
console.run_command(train_dreambooth.main, lines[int(os.environ["PADDLE_TRAINER_ID"]) % len(lines)])
"""


class Launched:
    """Two processes under Paddle's launcher."""

    def __init__(self, folder, *lines):
        self.folder = folder
        script = folder / "run.py"
        script.write_text(RUN.format(silence=SILENCE, lines=lines))
        command = [sys.executable, str(LAUNCHER), "--nproc_per_node", "2", "--log_level", "ERROR",
                   "--log_dir", str(folder / "launcher"), str(script)]  # fmt: skip
        with (folder / "launched").open("wb") as text:
            self.launcher = subprocess.Popen(
                command, cwd=ROOT, stdout=text, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )

    def wait_for(self, happens, seconds=240):
        end = time.monotonic() + seconds
        while not happens():
            assert self.launcher.poll() is None and time.monotonic() < end, self.logs()
            time.sleep(0.05)

    def worker(self, rank):
        """The process with this number."""
        for entry in os.listdir("/proc"):
            try:
                with open(f"/proc/{entry}/stat") as stat, open(f"/proc/{entry}/environ") as environ:
                    parent = int(stat.read().rpartition(")")[2].split()[1])
                    if parent == self.launcher.pid and f"PADDLE_TRAINER_ID={rank}\0" in environ.read():
                        return int(entry)
            except (OSError, ValueError):
                continue
        raise AssertionError(f"no process {rank}: {self.logs()}")

    def logs(self):
        return [path.read_text() for path in sorted((self.folder / "launcher").glob("workerlog.*"))]

    def end(self):
        """Wait for the end of all; return the errors that the processes have printed."""
        try:
            self.launcher.wait(SECONDS + SILENCE)
        except subprocess.TimeoutExpired:
            for rank in range(2):
                os.kill(self.worker(rank), signal.SIGKILL)
            self.launcher.wait(SECONDS)
            raise AssertionError(f"they have not ended: {self.logs()}") from None
        assert self.launcher.returncode != 0
        assert "Traceback" not in "".join(self.logs()), self.logs()
        return re.findall(r"^error.*$", "\n".join(self.logs()), re.MULTILINE)


def goes_on(twin, pictures, out, **changes):
    """The run can be resumed, and nothing is left over."""
    step = max(records.read_state(folder)["step"] for folder in out.glob("checkpoint-*"))
    line = command_line(twin, pictures, out, max_train_steps=step + 1, resume_from_checkpoint="latest", **changes)
    done = python("train_dreambooth.py", *line, "--allow_changes")  # on one process
    assert done.returncode == 0, done.stderr
    assert not leftovers(out)


def trains(folder, twin, pictures):
    """Two processes that have written a checkpoint."""
    out = folder / "out"
    line = command_line(twin, pictures, out, max_train_steps=100_000, save_steps=5, logging_steps=1000)
    run = Launched(folder, line)
    run.wait_for(lambda: list(out.glob("checkpoint-*")))
    return run, out


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_hangs_ends_all(twin, pictures, tmp_path, rank):
    run, out = trains(tmp_path, twin, pictures)
    os.kill(run.worker(rank), signal.SIGSTOP)
    [error] = run.end()
    silent = (
        f"process {rank} has not answered for {SILENCE} s; to go on: the same command with --resume_from_checkpoint"
    )
    assert silent in error
    goes_on(twin, pictures, out)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_all(twin, pictures, tmp_path, rank):
    run, out = trains(tmp_path, twin, pictures)
    os.kill(run.worker(rank), signal.SIGKILL)
    errors = run.end()  # the launcher may end the other one before it speaks
    assert len(errors) <= 1 and all("another process has ended, or cannot be reached" in each for each in errors)
    goes_on(twin, pictures, out)


def test_a_process_that_hangs_while_the_other_one_draws_class_pictures_ends_all(twin, pictures, tmp_path):
    prior = dict(with_prior_preservation=True, class_prompt="a dog", class_data_dir=tmp_path / "class",
                 num_class_images=400, prior_inference_steps=20, sample_batch_size=1)  # fmt: skip
    run = Launched(tmp_path, command_line(twin, pictures, tmp_path / "out", **prior))
    run.wait_for(lambda: len(list((tmp_path / "class").rglob("*.png"))) > 3)
    os.kill(run.worker(1), signal.SIGSTOP)
    [error] = run.end()
    assert "process 1 has not answered" in error and not (tmp_path / "out/model_index.json").exists()


def test_two_processes_that_are_both_stopped_for_a_while_go_on(twin, pictures, tmp_path):
    """As by Ctrl-Z, for longer than a process may be silent."""
    run, out = trains(tmp_path, twin, pictures)
    workers = [run.worker(rank) for rank in range(2)]
    for each in workers:
        os.kill(each, signal.SIGSTOP)
    time.sleep(SILENCE + 5)
    for each in workers:
        os.kill(each, signal.SIGCONT)
    before = {path.name for path in out.glob("checkpoint-*")}
    run.wait_for(lambda: {path.name for path in out.glob("checkpoint-*")} - before)
    os.kill(workers[0], signal.SIGTERM)
    assert run.end() == [] and "stopped by a signal" in run.logs()[0]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("bad", [dict(learning_rate=-1), dict(instance_data_dir="nowhere"), dict(seed=3)],
                         ids=lambda each: next(iter(each)))  # fmt: skip
def test_bad_input_of_one_process_alone_ends_all(twin, pictures, tmp_path, rank, bad):
    lines = [command_line(twin, pictures, tmp_path / "out", **(bad if number == rank else {})) for number in range(2)]
    errors = Launched(tmp_path, *lines).end()
    assert len(errors) == 1, errors
    named = "not all processes have the same" if "seed" in bad else next(iter(bad))
    assert named in errors[0] and not (tmp_path / "out/model_index.json").exists()


def test_bad_input_of_both_is_one_message(twin, pictures, tmp_path):
    errors = Launched(tmp_path, command_line(twin, pictures, tmp_path / "out", instance_data_dir="nowhere")).end()
    assert errors == ["error: --instance_data_dir nowhere: there is no such folder"]
    assert not (tmp_path / "out").exists()
