"""Two runs at one time: on one output folder the second is refused; on one class folder both end right."""

import signal
import time

import pytest
from support.commands import command_line, python
from support.faults import KILLED, Running, contents, leftovers, one_line
from support.weights import assert_same

pytestmark = pytest.mark.slow


def line(twin, pictures, out, **changes):
    return ["train_dreambooth.py", *command_line(twin, pictures, out, **changes)]


def test_a_second_run_on_an_output_folder_is_refused_before_it_loads_a_model(twin, pictures, tmp_path):
    out = tmp_path / "out"
    first = Running(line(twin, pictures, out, max_train_steps=100_000, save_steps=3), tmp_path, "first")
    first.wait_for(lambda: list(out.glob("checkpoint-*")))
    for changes in (
        {},
        dict(instance_prompt="a photo of sks cat", overwrite=True),
        dict(resume_from_checkpoint="latest"),
    ):
        second = Running(line(twin, pictures, out, max_train_steps=100_000, **changes), tmp_path, "second")
        assert second.end() == 2
        assert f"--output_dir {out}: another run writes into it" in one_line(second.err)
        assert "learning  " not in second.out
    assert not first.has_ended()
    first.send(signal.SIGTERM)
    assert first.end() == 143 and "Traceback" not in first.err


def test_two_runs_that_begin_together_on_a_new_folder_are_one_run(twin, pictures, tmp_path):
    out = tmp_path / "out"
    settings = dict(max_train_steps=30, save_steps=10)
    both = [Running(line(twin, pictures, out, **settings), tmp_path, name) for name in ("one", "other")]
    assert sorted(each.end() for each in both) == [0, 2]
    [refused] = [each for each in both if each.code]
    assert "another run writes into it" in one_line(refused.err)
    done = python(*line(twin, pictures, tmp_path / "alone", **settings))
    assert done.returncode == 0
    assert_same(out / "unet", tmp_path / "alone/unet")


def test_a_run_whose_plan_another_one_has_overtaken_makes_it_anew(twin, pictures, tmp_path):
    """The first has read the folder, and waits for the lock, when the second writes another run into it and ends."""
    out = tmp_path / "out"
    (tmp_path / "waits.py").write_text(WAITS)
    waiting = [tmp_path / "waits.py", tmp_path / "ready", tmp_path / "go"]
    cat = dict(instance_prompt="a photo of sks cat")
    first = Running([*waiting, *line(twin, pictures, out)[1:]], tmp_path, "first")
    first.wait_for((tmp_path / "ready").exists)
    assert python(*line(twin, pictures, out, **cat)).returncode == 0
    before = contents(out)
    (tmp_path / "go").touch()
    assert first.end() == 2
    assert f"--output_dir {out}: it holds another run (instance_prompt: " in one_line(first.err)
    assert contents(out) == before
    # where it is the same run, it goes on from what the other one has written
    (tmp_path / "ready").unlink(), (tmp_path / "go").unlink()
    resume = dict(max_train_steps=4, save_steps=1, resume_from_checkpoint="latest")
    first = Running([*waiting, *line(twin, pictures, tmp_path / "new", **resume)[1:]], tmp_path, "first")
    first.wait_for((tmp_path / "ready").exists)
    assert python(*line(twin, pictures, tmp_path / "new", **{**resume, "max_train_steps": 4})).returncode == 0
    made = (tmp_path / "new/checkpoint-2/state.json").read_bytes()
    (tmp_path / "go").touch()
    assert first.end() == 0 and "has all 4 updates already" in first.out
    assert (tmp_path / "new/checkpoint-2/state.json").read_bytes() == made


# a run that waits between its plan and the lock
WAITS = """
import pathlib, sys, time
import train_dreambooth
from dreambooth.run import output_folder
from dreambooth.system import console

claimed = output_folder.claimed
ready, go = map(pathlib.Path, sys.argv[1:3])

def wait_and_claim(*arguments):
    ready.touch()
    while not go.exists():
        time.sleep(0.01)
    return claimed(*arguments)

output_folder.claimed = wait_and_claim
console.run_command(train_dreambooth.main, sys.argv[3:])
"""


def with_class(folder, **changes):
    return dict(with_prior_preservation=True, class_data_dir=folder, class_prompt="a photo of a dog",
                num_class_images=8, prior_inference_steps=2, **changes)  # fmt: skip


def test_two_runs_on_one_class_folder_end_as_if_each_were_alone(twin, pictures, tmp_path):
    shared, alone = with_class(tmp_path / "class"), with_class(tmp_path / "class of its own")
    runs = [Running(line(twin, pictures, tmp_path / name, **shared), tmp_path, name) for name in ("one", "other")]
    assert [each.end() for each in runs] == [0, 0], [each.err for each in runs]
    assert python(*line(twin, pictures, tmp_path / "alone", **alone)).returncode == 0
    assert contents(tmp_path / "class") == contents(tmp_path / "class of its own")
    for name in ("one", "other"):
        assert_same(tmp_path / name / "unet", tmp_path / "alone/unet")
    assert not leftovers(tmp_path / "class")


@pytest.mark.parametrize("number", [1, 4, 9])
def test_a_run_that_is_killed_does_not_disturb_another_one_that_draws_beside_it(twin, pictures, tmp_path, number):
    shared = with_class(tmp_path / "class", save_steps=1)
    (tmp_path / "killed.py").write_text(KILLED)
    killed = [tmp_path / "killed.py", tmp_path / "class", number, *line(twin, pictures, tmp_path / "one", **shared)]
    runs = [Running(killed, tmp_path, "one")]
    while not (tmp_path / "class").exists() and not runs[0].has_ended():
        time.sleep(0.005)
    runs.append(Running(line(twin, pictures, tmp_path / "other", **shared), tmp_path, "other"))
    assert [each.end() for each in runs] == [-signal.SIGKILL, 0], [each.err for each in runs]
    assert python(*line(twin, pictures, tmp_path / "one", **shared)).returncode == 0
    assert_same(tmp_path / "one/unet", tmp_path / "other/unet")
    assert len(contents(tmp_path / "class")) == 8 and not leftovers(tmp_path / "class")


def test_runs_with_other_seeds_share_a_class_folder_and_each_can_be_resumed(twin, pictures, tmp_path):
    lines = [
        line(twin, pictures, tmp_path / str(seed), seed=seed, **with_class(tmp_path / "class", save_steps=1))
        for seed in (1, 2)
    ]
    runs = [Running(each, tmp_path, str(number)) for number, each in enumerate(lines)]
    assert [each.end() for each in runs] == [0, 0], [each.err for each in runs]
    for each in lines:
        done = python(*each, "--resume_from_checkpoint", "checkpoint-1")
        assert done.returncode == 0, done.stderr
