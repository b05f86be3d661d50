"""The ways in which the tests run the tool."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth.system import console
from support import forks

ROOT = Path(__file__).parents[2]
LAUNCHER = ROOT / "dreambooth/system/devices/launcher.py"  # Paddle's, which takes no notice of hidden cards


def command_line(model, pictures, folder, /, **changes):
    settings = dict(
        pretrained_model_name_or_path=model,
        instance_data_dir=pictures,
        instance_prompt="a photo of sks dog",
        output_dir=folder,
        resolution=32,
        train_batch_size=1,
        max_train_steps=2,
        prior_inference_steps=2,
        learning_rate=1e-3,
        seed=0,
        no_last_checkpoint=True,
    )
    settings.update(changes)
    line = []
    for name, value in settings.items():
        if value is True:
            line.append(f"--{name}")
        elif isinstance(value, list):
            line += [part for each in value for part in (f"--{name}", str(each))]
        elif value is not None:
            line += [f"--{name}", str(value)]
    return line


def train(line):
    """Run train_dreambooth.py's main in this process."""
    import train_dreambooth

    train_dreambooth.main(line)


def train_whole_and_in_parts(model, pictures, folder, **settings):
    """Make a run of four updates into folder/whole, and the same with a stop after the second into folder/parts."""
    settings = {**settings, "save_steps": 2, "train_batch_size": 2}
    train(command_line(model, pictures, folder / "whole", **settings, max_train_steps=4))
    train(command_line(model, pictures, folder / "parts", **settings, max_train_steps=2))
    again = dict(max_train_steps=4, resume_from_checkpoint="latest")
    train(command_line(model, pictures, folder / "parts", **settings, **again))


def train_in_one_and_two_processes(model, pictures, folder, **settings):
    """Make a run by one process into folder/one, the same by two into folder/two, and one of another seed."""
    train(command_line(model, pictures, folder / "one", **settings, train_batch_size=2))
    done = launch(folder, "train_dreambooth.py", *command_line(model, pictures, folder / "two", **settings))
    assert done.returncode == 0, done.stdout + done.stderr
    train(command_line(model, pictures, folder / "other", **{**settings, "seed": 1}, train_batch_size=2))


def python(*arguments, **environment):
    """Run a command of the tool in a process of its own; the CompletedProcess, with its text.

    It is a fork of this process, which has the libraries already, unless it has another environment or is no command.
    """
    line = [str(each) for each in arguments]
    is_command = line[0].endswith(".py") or (line[0] == "-m" and line[1].partition(".")[0] in forks.PACKAGES)
    if is_command and not environment and hasattr(os, "fork"):
        return forks.run(line)
    return new_python(*line, **environment)


def new_python(*arguments, **environment):
    """Run Python in a process that has nothing of this one; the CompletedProcess, with its text."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


def launch(folder, *arguments, processes=2):
    """Run a script on several processes of this machine's CPU; the CompletedProcess, with the first one's text.

    They are forks of this process with the environment that Paddle's launcher gives.
    """
    if hasattr(os, "fork"):
        return forks.launch([str(each) for each in arguments], folder / "launcher", processes)
    return launch_by_paddle(folder, *arguments, processes=processes)


def launch_by_paddle(folder, *arguments, processes=2):
    """Run a script under Paddle's launcher itself."""
    return new_python(LAUNCHER, "--nproc_per_node", processes, "--log_dir", folder / "launcher", *arguments)


def one_error(capfd, main, line):
    """Run a command in this process until it fails; return the one line that is its error."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        console.run_command(main, line)
    said = capfd.readouterr()
    assert ended.value.code == 1 and "Traceback" not in said.err + said.out
    [error] = [text for text in said.err.splitlines() if text.startswith("error: ")]
    assert said.err.rstrip().endswith(error)
    return error
