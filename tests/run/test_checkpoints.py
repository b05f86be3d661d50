"""Checkpoints: whole or absent, found, pruned, and refused where they do not fit; stopping writes one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.commands import ROOT, train
from support.pictures import draw_pictures
from support.twins import build_twin
from support.weights import assert_same, weights

from dreambooth.config.run_sections import SavingSettings
from dreambooth.files import atomic, records
from dreambooth.run import checkpoints
from dreambooth.run.checkpoints import Checkpointer
from dreambooth.system import disk
from dreambooth.system.errors import BadInput


@pytest.fixture
def run(flags, tmp_path):
    """A run of three updates with a checkpoint after each."""
    train(flags(max_train_steps=3, save_steps=1))
    return tmp_path / "out"


def names(folder):
    return {path.name for path in folder.glob("checkpoint-*")}


def test_a_checkpoint_has_the_trained_networks_and_their_state_and_no_pickle(run):
    folder = run / "checkpoint-2"
    files = {str(path.relative_to(folder)) for path in atomic.files_in(folder)}
    assert files == {
        "state.json",
        "optimizer.safetensors",
        "unet/config.json",
        "unet/diffusion_paddle_model.safetensors",
    }
    state = records.read_state(folder)
    assert state["step"] == 2 and state["files"].keys() == files - {"state.json"}
    assert state["optimizer"]["schedule"]["last_epoch"] == 2


def test_the_weights_of_a_checkpoint_load_with_from_pretrained(flags, tmp_path):
    from ppdiffusers import UNet2DConditionModel
    from ppdiffusers.transformers import CLIPTextModel

    train(flags(save_steps=1, train_text_encoder=True))
    out = tmp_path / "out"
    unet = UNet2DConditionModel.from_pretrained(str(out), subfolder="checkpoint-2/unet")
    assert (unet.conv_in.weight.numpy() == weights(out / "unet")["conv_in.weight"]).all()
    text_encoder = CLIPTextModel.from_pretrained(str(out), subfolder="checkpoint-2/text_encoder")
    saved = weights(out / "text_encoder")
    assert all((value.numpy() == saved[name]).all() for name, value in text_encoder.state_dict().items())


def test_latest_is_the_newest_whole_one(run):
    (folder, state), problems = checkpoints.find("latest", run)
    assert folder.name == "checkpoint-3" and state["step"] == 3 and not problems
    (run / "checkpoint-3/optimizer.safetensors").write_bytes(b"cut short")
    (folder, state), [problem] = checkpoints.find("latest", run)
    assert folder.name == "checkpoint-2" and "checkpoint-3" in problem and "9 bytes" in problem


def test_latest_belongs_to_the_run_that_wrote_last_even_if_an_older_one_was_longer(run, flags):
    train(flags(max_train_steps=1, save_steps=1, seed=5))
    (folder, state), _ = checkpoints.find("latest", run)
    assert folder.name == "checkpoint-1" and state["course"]["seed"] == 5


def test_a_checkpoint_is_found_by_name_and_by_path(run):
    for name in ("checkpoint-2", str(run / "checkpoint-2"), str(run / "checkpoint-2") + "/"):
        assert checkpoints.find(name, run)[0].state["step"] == 2


def test_somebodys_own_copies_and_notes_are_left_alone(flags, tmp_path):
    out = tmp_path / "out"
    train(flags(save_steps=1))
    shutil.copytree(out / "checkpoint-1", out / "checkpoint-best")
    (out / "checkpoint-notes.txt").write_text("mine")
    assert checkpoints.find("latest", out)[0].folder.name == "checkpoint-2"
    train(flags(save_steps=1, checkpoints_total_limit=1))
    assert names(out) == {"checkpoint-2", "checkpoint-best", "checkpoint-notes.txt"}


def test_what_an_interrupted_write_left_is_no_checkpoint_and_does_not_disturb_the_next(run, tmp_path):
    with pytest.raises(RuntimeError), atomic.whole_folder(run / "checkpoint-9") as folder:
        (folder / "state.json").write_text("{}")
        raise RuntimeError("the power went")
    assert "checkpoint-9" not in names(run) and checkpoints.find("latest", run)[0].state["step"] == 3
    with atomic.whole_folder(run / "checkpoint-9") as folder:
        (folder / "a").write_text("a")
    assert [path.name for path in (run / "checkpoint-9").iterdir()] == ["a"]
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_only_the_newest_are_kept_and_the_new_one_is_there_first(flags, tmp_path):
    train(flags(max_train_steps=5, save_steps=1, checkpoints_total_limit=2))
    assert names(tmp_path / "out") == {"checkpoint-4", "checkpoint-5"}


def test_three_are_kept_unless_the_user_has_another_limit(flags, tmp_path):
    for limit, kept in ((None, (3, 4, 5)), (0, (1, 2, 3, 4, 5))):
        out = tmp_path / f"limit {limit}"
        train(flags(output_dir=out, max_train_steps=5, save_steps=1, checkpoints_total_limit=limit))
        assert names(out) == {f"checkpoint-{step}" for step in kept}


def test_a_finished_run_is_trained_on_from_its_end(flags, tmp_path, capsys):
    common = dict(no_last_checkpoint=None, ema_decay=0.5)
    train(flags(output_dir=tmp_path / "whole", max_train_steps=4, **common))
    train(flags(max_train_steps=2, **common))
    assert names(tmp_path / "out") == {"checkpoint-2"}
    train(flags(max_train_steps=4, resume_from_checkpoint="latest", **common))
    assert names(tmp_path / "out") == {"checkpoint-2", "checkpoint-4"}
    assert_same(tmp_path / "whole/unet", tmp_path / "out/unet")
    printed = capsys.readouterr().out
    assert "disk      " in printed and "1 checkpoint of " in printed


def test_a_restart_loop_begins_goes_on_and_ends(flags, tmp_path, capsys):
    """The same command with --resume_from_checkpoint latest: in an empty folder, after a stop, and when all is done."""
    line = flags(no_last_checkpoint=None, save_steps=1, resume_from_checkpoint="latest")
    train(line)
    assert "holds no checkpoint yet: the run begins" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out/checkpoint-2")
    (tmp_path / "out/training_args.json").unlink()
    train(line)
    assert "from step 1" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    train(line)
    printed = capsys.readouterr().out
    assert "complete  " in printed and "all 2 updates already" in printed and "learning" not in printed
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize("checkpoint", ["no_last_checkpoint", "last_checkpoint"])
def test_a_finished_run_is_not_made_again(flags, tmp_path, capsys, checkpoint):
    """Nor where no checkpoint is left, or fewer updates are asked for than it has."""
    common = {"no_last_checkpoint": None, checkpoint: True, "resume_from_checkpoint": "latest"}
    train(flags(**common))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    capsys.readouterr()
    for steps, said in ((2, "has all 2 updates already"), (1, "has 2 updates already, and 1 are asked for")):
        for seed in (0, None):
            train(flags(**common, max_train_steps=steps, seed=seed))
            printed = capsys.readouterr().out
            assert f"complete  {tmp_path / 'out'} {said}" in printed and "begins" not in printed
            assert ("--max_train_steps above 2 trains on" in printed) == (checkpoint == "last_checkpoint")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize("change", [dict(max_train_steps=3), dict(learning_rate=2e-3), dict(seed=1)])
def test_a_result_without_a_checkpoint_is_no_other_run(flags, capsys, change):
    train(flags(resume_from_checkpoint="latest"))
    capsys.readouterr()
    train(flags(resume_from_checkpoint="latest", **change))
    printed = capsys.readouterr().out
    assert "holds no checkpoint yet: the run begins" in printed and "done  " in printed


def test_without_room_for_the_last_checkpoint_the_result_is_saved(flags, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise disk.DiskFull("checkpoint-2", missing=5_000_000)

    monkeypatch.setattr(checkpoints, "save", full)
    train(flags(no_last_checkpoint=None))
    assert (tmp_path / "out/model_index.json").exists()
    assert "no checkpoint is kept of the end" in (said := capsys.readouterr().err) and "5 MB are missing" in said


def test_another_error_of_the_last_checkpoint_ends_the_run(flags, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(checkpoints, "save", broken)
    with pytest.raises(RuntimeError, match="broken"):
        train(flags(no_last_checkpoint=None))


def test_a_disk_that_is_too_small_is_warned_of_before_the_run(flags, monkeypatch, capsys):
    monkeypatch.setattr(disk, "free_space", lambda folder: 1000)
    train(flags(dry_run=True, no_last_checkpoint=None))
    assert "MB are free; --no_last_checkpoint and a lower --checkpoints_total_limit" in capsys.readouterr().err


def test_without_a_limit_all_are_kept(run):
    assert names(run) == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(seed=7), "seed"),
        (dict(train_batch_size=2), "train_batch_size x .*processes"),
        (dict(learning_rate=1e-4), "learning_rate"),
        (dict(instance_prompt="a photo of a dog"), "instance_prompt"),
        (dict(center_crop=True), "center_crop"),
        (dict(resolution=64), "height"),
        (dict(lr_scheduler="cosine"), "lr_scheduler"),
    ],
)
def test_a_change_of_course_is_named_and_stops_unless_it_is_allowed(run, flags, changes, named, capsys):
    again = dict(resume_from_checkpoint="checkpoint-2", max_train_steps=3, **changes)
    with pytest.raises(BadInput, match=f"{named}: .* then, .* now") as error:
        train(flags(**again))
    assert "--allow_changes" in str(error.value)
    train(flags(**again, allow_changes=True))
    assert re.search(f"resuming with a change: {named}", capsys.readouterr().err)


def test_another_set_of_pictures_is_a_change_of_course(run, flags, class_pictures):
    with pytest.raises(BadInput, match="hashes"):
        train(flags(resume_from_checkpoint="checkpoint-2", max_train_steps=3, instance_data_dir=class_pictures))


def test_other_class_pictures_are_a_change_of_course_too(flags, tmp_path):
    folder = draw_pictures(tmp_path / "class", 4)
    prior = dict(with_prior_preservation=True, class_prompt="a dog", class_data_dir=folder, num_class_images=4)
    train(flags(save_steps=1, **prior))
    (folder / "3.png").write_bytes((folder / "2.png").read_bytes())
    with pytest.raises(BadInput, match="class pictures' hashes: 4 files then, 4 files now"):
        train(flags(resume_from_checkpoint="latest", max_train_steps=3, **prior))


def test_a_model_is_known_by_its_files_and_not_by_its_name(run, flags, twin, tmp_path):
    again = dict(
        pretrained_model_name_or_path=tmp_path / "model",
        resume_from_checkpoint=run / "checkpoint-2",
        max_train_steps=3,
        output_dir=tmp_path / "again",
    )
    shutil.copytree(twin, tmp_path / "model")
    train(flags(**again))
    (tmp_path / "model/scheduler/scheduler_config.json").open("a").write(" ")
    with pytest.raises(BadInput, match="pretrained_model_name_or_path: 'weights .*' then, 'weights .*' now"):
        train(flags(**{**again, "output_dir": tmp_path / "third"}))


def test_more_steps_on_a_constant_schedule_are_no_change(run, flags, twin):
    train(flags(resume_from_checkpoint="latest", max_train_steps=5))
    assert json.loads((run / "training_args.json").read_text())["steps"] == 5


def test_the_seed_need_not_be_given_again(run, flags, tmp_path):
    train(flags(resume_from_checkpoint=run / "checkpoint-2", max_train_steps=3, seed=None, output_dir=tmp_path / "b"))
    assert_same(run / "unet", tmp_path / "b/unet")


def test_a_checkpoint_beyond_the_end_of_the_run_is_refused(run, flags):
    with pytest.raises(BadInput, match="has 3 steps already"):
        train(flags(resume_from_checkpoint="checkpoint-3", max_train_steps=2))


def test_missing_broken_and_foreign_checkpoints_are_refused(run, flags, tmp_path):
    def refused(name, match, **changes):
        with pytest.raises(BadInput, match=match) as error:
            train(flags(resume_from_checkpoint=name, max_train_steps=9, **changes))
        assert "--resume_from_checkpoint" in str(error.value)

    refused("checkpoint-7", "no such checkpoint .*checkpoint-1, checkpoint-2, checkpoint-3")
    train(flags(output_dir=tmp_path / "broken"))
    (tmp_path / "broken/checkpoint-1").mkdir()
    (tmp_path / "broken/checkpoint-1/state.json").write_text("{")
    refused("latest", "no whole checkpoint", output_dir=tmp_path / "broken")
    (run / "checkpoint-1/state.json").write_text("{")
    refused("checkpoint-1", "not whole: its state.json can't be read")
    shutil.rmtree(run / "checkpoint-2/unet")
    refused("checkpoint-2", "unet/config.json is missing")
    shutil.copytree(run / "checkpoint-3", run / "checkpoint-4")
    for path in (run / "checkpoint-4/unet").glob("*.safetensors"):
        path.write_bytes(b"x" * path.stat().st_size)
    refused("checkpoint-4", "not whole: unet/.* is damaged: .*; checkpoint-3 is whole$")
    whole = {**records.read_state(run / "checkpoint-3"), "checksums": {}}
    schedule = {**whole["optimizer"], "schedule": {"last_epoch": "x"}}
    for change, match in (
        ({"files": {"a\0\nerror": 1}}, r"not whole: a.x00.nerror is missing"),
        ({"step": -7}, "not whole: its state.json can't be read .step is -7"),
        ({"optimizer": {"schedule": 5, "scaler": {}}}, "can't be read"),
        ({"optimizer": schedule}, "can't be read .the state of its schedule is 'x'"),
    ):
        (run / "checkpoint-3/state.json").write_text(json.dumps({**whole, **change}))
        refused("checkpoint-3", match)


def test_a_checkpoint_of_another_model_is_refused(run, flags, tmp_path):
    import paddle
    from ppdiffusers import UNet2DConditionModel

    other = build_twin(tmp_path / "other")
    unet = UNet2DConditionModel.from_pretrained(str(other / "unet"))
    unet.conv_out = paddle.nn.Conv2D(16, 8, 3, padding=1)
    wrong = {"unet": unet}
    with pytest.raises(BadInput, match="of another model; 2 of the unet's weights differ .* conv_out"):
        checkpoints.load(checkpoints.find("checkpoint-1", run)[0], wrong, {})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_writes_a_checkpoint_and_the_run_can_go_on(flags, tmp_path, number):
    changes = dict(max_train_steps=2000, logging_steps=1000)
    process = subprocess.Popen(
        [sys.executable, "train_dreambooth.py", *flags(**changes)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "out/logs"
    deadline = time.time() + 120
    while not log.exists() and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    [line] = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("stopped by")]
    [folder] = (tmp_path / "out").glob("checkpoint-*")
    step = records.read_state(folder)["step"]
    assert f"after step {step}" in line and "--resume_from_checkpoint latest" in line and "Traceback" not in err
    assert "error" not in err
    train(flags(max_train_steps=step + 1, resume_from_checkpoint="latest"))
    assert (tmp_path / "out/model_index.json").exists()


class Counter:
    """Something with state that joins a checkpoint."""

    def __init__(self):
        self.values = np.zeros(3, np.float32)

    def state(self):
        return {"a.values": self.values}, {"sum": float(self.values.sum())}

    def restore(self, tensors, state):
        self.values = tensors["a.values"]
        assert state == {"sum": float(self.values.sum())}


def test_whatever_has_state_joins_a_checkpoint_under_its_name(tmp_path):
    import paddle

    networks = {"unet": paddle.nn.Linear(2, 2)}
    counters = {"optimizer": Counter(), "average": Counter()}
    counters["average"].values += 2
    weight = networks["unet"].weight.numpy().copy()
    folder = checkpoints.save(tmp_path, 7, networks, counters, {"seed": 1}, {"flags": {}})
    names = {str(path.relative_to(folder)) for path in atomic.files_in(folder)}
    assert names == {"state.json", "optimizer.safetensors", "average.safetensors", "unet/model.safetensors"}
    checkpoint = checkpoints.find("latest", tmp_path)[0]
    assert list(checkpoint.state) == [
        "step",
        "written_ns",
        "course",
        "optimizer",
        "average",
        "arguments",
        "files",
        "checksums",
    ]
    networks["unet"].weight.set_value(weight + 1)
    again = {"optimizer": Counter(), "average": Counter()}
    checkpoints.load(checkpoint, networks, again)
    assert (again["average"].values == 2).all() and (again["optimizer"].values == 0).all()
    assert (networks["unet"].weight.numpy() == weight).all()


def test_a_state_that_lacks_something_is_refused_in_one_line(run):
    checkpoint = checkpoints.find("latest", run)[0]
    with pytest.raises(BadInput, match="checkpoint-3: it can't be read"):
        checkpoints.load(checkpoint, {}, {"average": Counter()})


@pytest.fixture
def checkpointer(tmp_path):
    """Checkpoints of a tiny network and a counter, of which one stays."""
    import paddle

    settings = SavingSettings(output_dir=str(tmp_path), checkpoints_total_limit=1)
    networks, stateful = {"unet": paddle.nn.Linear(2, 2)}, {"optimizer": Counter()}
    return Checkpointer(settings, networks, stateful, {"seed": 1}, {"flags": {}})


def test_a_runs_checkpoints_are_saved_and_loaded_together(checkpointer, tmp_path):
    assert checkpointer.last is None
    for step in (3, 4):
        checkpointer.save(step)
    assert names(tmp_path) == {"checkpoint-4"} and checkpointer.last == tmp_path / "checkpoint-4"
    checkpointer.last = None
    assert checkpointer.load(checkpoints.find("latest", tmp_path)[0]) == 4
    assert checkpointer.last == tmp_path / "checkpoint-4"


def test_what_fails_after_training_leaves_a_checkpoint_of_that_step(checkpointer, tmp_path, capsys):
    with checkpointer.rescue(5):
        pass
    assert not names(tmp_path)
    with pytest.raises(RuntimeError, match="the hub went away"), checkpointer.rescue(5):
        raise RuntimeError("the hub went away")
    assert names(tmp_path) == {"checkpoint-5"} and "checkpoint-5 has the trained weights" in capsys.readouterr().err
    written = (tmp_path / "checkpoint-5/state.json").stat().st_mtime_ns
    with pytest.raises(RuntimeError), checkpointer.rescue(5):
        raise RuntimeError
    assert (tmp_path / "checkpoint-5/state.json").stat().st_mtime_ns == written  # once is enough


def test_the_newest_is_the_one_that_was_written_last_also_where_the_clock_went_back(
    checkpointer, tmp_path, monkeypatch
):
    times = iter((5_000, 3_000, 1_000))
    monkeypatch.setattr(checkpoints.time, "time_ns", lambda: next(times))
    for step in (1, 2, 3):
        checkpointer.save(step)
        assert names(tmp_path) == {f"checkpoint-{step}"}  # only the newest is kept
    assert checkpoints.find("latest", tmp_path)[0].state["written_ns"] == 5_002


def test_a_checkpoint_with_a_changed_byte_is_named_and_an_older_one_is_taken(tmp_path):
    import paddle

    for step in (1, 2):
        checkpoints.save(tmp_path, step, {"unet": paddle.nn.Linear(2, 2)}, {"optimizer": Counter()}, {"seed": 1}, {})
    path = tmp_path / "checkpoint-2/optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    found, [problem] = checkpoints.find("latest", tmp_path)
    assert found.folder.name == "checkpoint-1"
    assert problem.startswith(f"{path.parent} is not whole: optimizer.safetensors is damaged")
    with pytest.raises(
        BadInput, match="checkpoint-2 is not whole: optimizer.safetensors is damaged.*; checkpoint-1 is"
    ):
        checkpoints.find("checkpoint-2", tmp_path)
