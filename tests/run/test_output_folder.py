"""The output folder: whose it is, and that a pipeline is replaced whole."""

import errno
import fcntl
import json
import os
import shutil

import pytest
from support.commands import train
from support.pictures import draw_pictures

from dreambooth.files import atomic
from dreambooth.run import output_folder
from dreambooth.system.errors import BadInput


def check(folder, **others):
    """Check a folder with logs in it, and other folders by flag."""
    folders = [(f"--{flag}", path) for flag, path in {"logging_dir": folder / "logs", **others}.items()]
    output_folder.check(folder, folders, replaces_pipeline=True)


@pytest.mark.parametrize("there", [[], ["logs/x"], ["samples/a.png"], [".hidden"]])
def test_new_empty_and_own_folders_are_fine(tmp_path, there):
    check(tmp_path / "out")
    for name in there:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("")
    check(tmp_path / "out")


@pytest.mark.parametrize("there", ["thesis.tex", "model_index.json", "checkpoint-1/other.txt"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path, there):
    (tmp_path / "out" / there).parent.mkdir(parents=True)
    (tmp_path / "out" / there).write_text("")
    with pytest.raises(BadInput, match=f"--output_dir .*{there.split('/')[0]}"):
        check(tmp_path / "out")


def test_class_pictures_inside_are_the_runs_own_and_outside_must_have_a_place(tmp_path):
    (tmp_path / "out/classes/dogs").mkdir(parents=True)
    check(tmp_path / "out", class_data_dir=tmp_path / "out/classes/dogs")
    with pytest.raises(BadInput, match="--output_dir .*something else than an earlier run \\(classes\\)"):
        check(tmp_path / "out", class_data_dir=tmp_path / "dogs")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="--class_data_dir .*/file/dogs: it is no folder that can be written"):
        check(tmp_path / "new", class_data_dir=tmp_path / "file/dogs")


def test_a_second_run_replaces_the_pipeline_and_nothing_else(flags, tmp_path):
    out = tmp_path / "out"
    train(flags())
    (out / "notes.txt").write_text("mine")
    train(flags(save_format="safetensors"))
    assert (out / "notes.txt").read_text() == "mine"
    assert {path.name for path in (out / "unet").iterdir()} == {"config.json", "diffusion_paddle_model.safetensors"}
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_no_secret_gets_into_the_arguments(flags, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    train(flags())
    for path in (tmp_path / "out").rglob("*.json"):
        assert "hf_secret" not in path.read_text()


@pytest.fixture
def finished(flags, tmp_path):
    """A finished run with a checkpoint on the way, one at the end, and a sample."""
    train(flags(no_last_checkpoint=None, save_steps=1, validation_prompt="a dog", num_validation_images=1))
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    return tmp_path / "out"


def other_model(twin, folder):
    """A copy of a model in which a weight is another."""
    shutil.copytree(twin, folder, dirs_exist_ok=True)
    path = next((folder / "unet").glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return folder


def others(tmp_path, twin):
    other_model(twin, tmp_path / "other model")
    return {
        "instance_prompt": dict(instance_prompt="a photo of sks cat"),
        "base model": dict(pretrained_model_name_or_path=tmp_path / "other model"),
        "pictures": dict(instance_data_dir=draw_pictures(tmp_path / "other pictures", 3, size=(48, 48))),
        "method": dict(lora_rank=2, lora_merge=True),
    }


@pytest.mark.parametrize("only_a_checkpoint", [False, True])
@pytest.mark.parametrize("name", ["instance_prompt", "base model", "pictures", "method"])
def test_another_run_in_the_folder_is_not_replaced_by_accident(
    flags, finished, tmp_path, twin, name, only_a_checkpoint
):
    if only_a_checkpoint:
        (finished / "training_args.json").unlink()
    changes = others(tmp_path, twin)[name]
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(BadInput, match=f"--output_dir .*it holds another run .*{name}: .*--overwrite"):
        train(flags(**changes))
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    train(flags(**changes, dry_run=True, overwrite=True))
    assert (finished / "checkpoint-2").is_dir()


def test_overwritten_it_leaves_nothing_of_the_other_run(flags, finished, tmp_path):
    (finished / "notes.txt").write_text("mine")
    train(flags(instance_prompt="a photo of sks cat", overwrite=True))
    assert {path.name for path in finished.iterdir() if path.is_dir()} == {
        *("logs", "scheduler", "text_encoder", "tokenizer", "unet", "vae")
    }
    assert (finished / "notes.txt").exists()
    assert "sks cat" in (finished / "training_args.json").read_text()


@pytest.mark.parametrize("log", [".", "mine"])
def test_overwriting_leaves_the_users_own_files(flags, finished, log):
    own = [finished / name for name in ("notes.txt", "mine/picture.png", "samples/mine.png", "checkpoint-best/a.txt")]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (finished / "checkpoint-7").mkdir()  # another run's, which was not finished
    train(flags(instance_prompt="a photo of sks cat", overwrite=True, logging_dir=log))
    assert all(path.read_text() == "mine" for path in own) and not (finished / "checkpoint-7").exists()
    assert not list((finished / "samples").glob("step-*"))


@pytest.mark.parametrize("flag", ["instance_data_dir", "class_data_dir"])
def test_input_among_what_is_overwritten_is_refused(flags, finished, flag):
    pictures = draw_pictures(finished / "samples/measured", 3)
    prior = dict(with_prior_preservation=True, class_prompt="a dog", num_class_images=1, class_data_dir="classes")
    with pytest.raises(BadInput, match=f"--{flag} .*: it has files of the run that --overwrite removes"):
        train(flags(**{"instance_prompt": "a photo of sks cat", "overwrite": True, **prior, flag: pictures}))
    assert len(list(pictures.iterdir())) == 3


def test_a_run_that_overwrites_begins_anew_whatever_is_to_be_resumed(flags, finished, capsys):
    with pytest.raises(BadInput, match="the run would go on differently"):
        train(flags(instance_prompt="a photo of sks cat", resume_from_checkpoint="latest"))
    train(flags(instance_prompt="a photo of sks cat", resume_from_checkpoint="latest", overwrite=True))
    assert "from step" not in capsys.readouterr().out and not (finished / "checkpoint-2").exists()


@pytest.mark.parametrize("key, value", [("flags", 3), ("concepts", [3]), ("concepts", None), ("concepts", [{}])])
def test_a_record_that_was_edited_stops_no_run(flags, finished, key, value):
    path = finished / "training_args.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    train(flags(dry_run=True))


def test_the_same_run_again_needs_no_flag(flags, finished, twin):
    train(flags(learning_rate=1e-4, pretrained_model_name_or_path=f"{twin}/../{twin.name}/"))
    assert (finished / "checkpoint-2").is_dir()


def test_two_runs_do_not_write_into_one_folder_at_a_time(flags, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    other = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    train(flags(dry_run=True))
    with pytest.raises(BadInput, match="--output_dir .*out: another run writes into it; wait for its end, or give"):
        train(flags(with_prior_preservation=True, class_prompt="a dog", class_data_dir=tmp_path / "class"))
    assert not list((tmp_path / "out").iterdir()) and not (tmp_path / "class").exists()
    os.close(other)
    train(flags())
    # a file system without locks
    monkeypatch.setattr(atomic.fcntl, "flock", lambda *more: (_ for _ in ()).throw(OSError(errno.ENOLCK, "none")))
    with output_folder.claimed(str(tmp_path / "out")), output_folder.claimed(str(tmp_path / "out")):
        pass


def test_a_folder_that_was_made_for_a_run_that_fails_is_gone_again(tmp_path):
    folder = tmp_path / "new/out"
    with pytest.raises(ZeroDivisionError), output_folder.claimed(str(folder)):
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists()
    with pytest.raises(ZeroDivisionError), output_folder.claimed(str(folder)):
        (folder / "result").write_text("")
        raise ZeroDivisionError
    assert (folder / "result").exists()
    with output_folder.claimed(str(tmp_path / "none"), is_needed=False):
        assert not (tmp_path / "none").exists()


def test_a_folder_that_its_run_removed_is_made_and_locked_anew(tmp_path, monkeypatch):
    folder, try_lock = tmp_path / "out", atomic.try_lock

    def remove_once(descriptor):
        if not (tmp_path / "removed").exists():
            (tmp_path / "removed").touch()
            folder.rmdir()
        return try_lock(descriptor)

    monkeypatch.setattr(atomic, "try_lock", remove_once)
    with output_folder.claimed(str(folder)):
        assert folder.is_dir()
        other = os.open(folder, os.O_RDONLY)
        assert not try_lock(other)
        os.close(other)


def test_a_run_is_refused_before_its_model_is_loaded(flags, tmp_path, monkeypatch):
    from dreambooth.models import loading

    monkeypatch.setattr(loading, "load_family", lambda *more, **options: 1 / 0)
    monkeypatch.setattr(output_folder, "_TRIES", 1)
    with output_folder.claimed(str(tmp_path / "out")), pytest.raises(BadInput, match="another run writes into it"):
        train(flags())


def test_a_plan_is_made_anew_where_another_run_has_come_before_the_lock(flags, tmp_path, monkeypatch):
    import contextlib

    claimed = output_folder.claimed

    @contextlib.contextmanager
    def late(*arguments):
        monkeypatch.setattr(output_folder, "claimed", claimed)
        train(flags(instance_prompt="a photo of sks cat"))  # another run begins and ends
        with claimed(*arguments):
            yield

    monkeypatch.setattr(output_folder, "claimed", late)
    with pytest.raises(BadInput, match="it holds another run .instance_prompt: 'a photo of sks cat' then"):
        train(flags())
    assert "sks cat" in (tmp_path / "out/training_args.json").read_text()


def test_a_result_is_newer_than_its_checkpoint_also_where_the_clock_went_back(flags, tmp_path, monkeypatch, capsys):
    from dreambooth.run import checkpoints

    later = checkpoints.time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(checkpoints.time, "time_ns", lambda: later)
    line = flags(no_last_checkpoint=None, resume_from_checkpoint="latest")
    train(line)
    monkeypatch.undo()
    train(line)
    assert "has all 2 updates already" in capsys.readouterr().out


def test_a_base_model_is_known_by_its_weights_wherever_it_lies(flags, tmp_path, twin, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    shutil.copytree(twin, tmp_path / "here/model")
    other_model(twin, tmp_path / "there/model")
    monkeypatch.chdir(tmp_path / "here")
    train(flags(pretrained_model_name_or_path="./model"))
    monkeypatch.chdir(tmp_path / "there")
    train(flags(pretrained_model_name_or_path=tmp_path / "here/model", dry_run=True))
    shutil.copytree(twin, tmp_path / "moved")
    train(flags(pretrained_model_name_or_path=tmp_path / "moved", dry_run=True))
    then, now = tmp_path / "here/model \\(with other weights\\) then", tmp_path / "there/model now"
    with pytest.raises(BadInput, match=f"base model: {then}, {now}"):
        train(flags(pretrained_model_name_or_path="./model", dry_run=True))
