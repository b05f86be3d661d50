"""SIGTERM and Ctrl-C, once and twice, in every phase of a run: soon it ends, by its code, and with a checkpoint."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support.commands import LAUNCHER, ROOT, command_line, python
from support.faults import Running, leftovers
from support.weights import assert_same

from dreambooth.files import records

pytestmark = pytest.mark.slow

SECONDS = 10  # from the signal to the end; a step of the twin takes a tenth of a second
LONG = 100_000


def line(twin, pictures, out, **changes):
    return ["train_dreambooth.py", *command_line(twin, pictures, out, **changes)]


def trains(running, out):
    """Wait until a run has made its first updates."""
    running.wait_for(lambda: list(out.glob("checkpoint-*")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_in_the_training_it_writes_a_checkpoint_from_which_the_run_goes_on(twin, pictures, tmp_path, number):
    out = tmp_path / "out"
    settings = dict(max_train_steps=LONG, save_steps=10, random_flip=True)
    running = Running(line(twin, pictures, out, **settings), tmp_path)
    trains(running, out)
    running.send(number)
    assert running.end(SECONDS) == 128 + number
    [said] = [each for each in running.err.replace("\r", "\n").splitlines() if each.startswith("stopped by")]
    steps = max(records.read_state(folder)["step"] for folder in out.glob("checkpoint-*"))
    assert f"after step {steps}; {out}/checkpoint-{steps} is complete" in said and not leftovers(out)
    more = dict(settings, max_train_steps=steps + 2, lr_scheduler="constant")
    assert (
        python(*line(twin, pictures, out, **more, resume_from_checkpoint="latest", allow_changes=True)).returncode == 0
    )
    assert python(*line(twin, pictures, tmp_path / "straight", **more)).returncode == 0
    assert_same(out / "unet", tmp_path / "straight/unet")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_it_too_and_leaves_nothing_half(twin, pictures, tmp_path, first, second):
    out = tmp_path / "out"
    running = Running(line(twin, pictures, out, max_train_steps=LONG, save_steps=10), tmp_path)
    trains(running, out)
    running.send(first)
    running.send(second)
    # Ctrl-C for the second time does not wait for the checkpoint; Python may deliver the two in either order
    codes = {128 + first, 128 + second}
    assert running.end(SECONDS) in codes and "Traceback" not in running.err
    steps = max(records.read_state(folder)["step"] for folder in out.glob("checkpoint-*"))
    assert not leftovers(out)
    again = line(twin, pictures, out, max_train_steps=steps + 1, resume_from_checkpoint="latest", allow_changes=True)
    assert python(*again).returncode == 0


# a command that is stopped from outside when it comes to a certain function
PAUSES = """
import importlib, pathlib, runpy, sys, time
module, name, marker, *line = sys.argv[1:]
home = importlib.import_module(module)
wrapped = getattr(home, name)

def pause(*arguments, **options):
    pathlib.Path(marker).touch()
    time.sleep(1)  # the signal comes within it
    return wrapped(*arguments, **options)

setattr(home, name, pause)
sys.argv = line
runpy.run_path(line[0], run_name="__main__")
"""
PHASES = {
    "the start": ("dreambooth.run.planning", "agree"),
    "the loading of the model": ("dreambooth.models.loading", "load_family"),
    "class pictures": ("dreambooth.drawing.prior_pictures", "_save"),
    "the encoding of pictures": ("dreambooth.run.tracking", "open_tracker"),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("phase", PHASES)
def test_before_the_training_it_ends_at_once(twin, pictures, tmp_path, phase, number):
    (tmp_path / "pauses.py").write_text(PAUSES)
    prior = dict(with_prior_preservation=True, class_data_dir=tmp_path / "class", class_prompt="a photo of a dog",
                 num_class_images=3, prior_inference_steps=2)  # fmt: skip
    run = line(twin, pictures, tmp_path / "out", **prior)
    running = Running([tmp_path / "pauses.py", *PHASES[phase], tmp_path / "marker", *run], tmp_path)
    running.wait_for((tmp_path / "marker").exists)
    running.send(number)
    assert running.end(SECONDS) == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in running.err and ("interrupted" in running.err) is (number == signal.SIGINT)
    assert python(*run).returncode == 0 and not leftovers(tmp_path / "out") and not leftovers(tmp_path / "class")


def test_while_the_result_is_saved_one_lets_it_finish_and_the_second_ends_it(twin, pictures, tmp_path):
    (tmp_path / "pauses.py").write_text(PAUSES)
    for signals, code in ((1, 0), (2, 130)):
        out = tmp_path / f"out {signals}"
        run = line(twin, pictures, out, no_last_checkpoint=None)
        place = ("dreambooth.run.output_folder", "_make_newest", tmp_path / f"marker {signals}")
        running = Running([tmp_path / "pauses.py", *place, *run], tmp_path)
        running.wait_for(place[2].exists)
        for _ in range(signals):
            running.send(signal.SIGINT)
            time.sleep(0.2)
        assert running.end(SECONDS) == code and "Traceback" not in running.err
        assert (out / "model_index.json").exists() is (signals == 1)
        assert python(*run, "--resume_from_checkpoint", "latest").returncode == 0 and not leftovers(out)


def test_ctrl_c_in_a_terminal_reaches_launcher_and_processes_and_all_end(twin, pictures, tmp_path):
    """The launcher itself waits for its processes, which write a checkpoint."""
    out = tmp_path / "out"
    command = [
        sys.executable,
        LAUNCHER,
        "--nproc_per_node",
        "2",
        "--log_dir",
        tmp_path / "logs",
    ]
    run = line(twin, pictures, out, max_train_steps=LONG, save_steps=10)
    launcher = subprocess.Popen(
        [str(each) for each in [*command, *run]], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not list(out.glob("checkpoint-*")) and time.monotonic() < limit:
        time.sleep(0.05)
    os.killpg(launcher.pid, signal.SIGINT)
    said = launcher.communicate(timeout=40)[0]
    assert launcher.returncode != 0 and "Traceback" not in (tmp_path / "logs/workerlog.0").read_text(), said
    logs = [(tmp_path / f"logs/workerlog.{rank}").read_text() for rank in range(2)]
    assert "stopped by a signal after step" in logs[0] and "stopped by" not in logs[1]
    steps = max(records.read_state(folder)["step"] for folder in out.glob("checkpoint-*"))
    assert f"after step {steps};" in logs[0] and not leftovers(out)
