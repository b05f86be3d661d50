"""Whole runs that are measured on the way: curves, the best weights, patience, and that a resumed run is the same."""

import json

import numpy as np
import pytest
from PIL import Image
from support.clips import build_clip
from support.commands import command_line, launch, train
from support.pictures import draw_pictures
from support.slowly import mostly_slow
from support.weights import assert_same, largest_difference

from dreambooth.run.choosing import score
from dreambooth.system.errors import BadInput


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return build_clip(tmp_path_factory.mktemp("clip") / "small")


def record(folder):
    return json.loads((folder / "training_args.json").read_text())


PRIOR = dict(prior_by_prediction=True, class_prompt="a photo of a dog")
MEASURED = dict(keep_best=True, validation_steps=1, learning_rate=1e-2)


def test_the_weights_of_the_best_validation_are_saved(twin, pictures, tmp_path, capsys, monkeypatch):
    values = iter([0.0, 1.0, 3.0, 2.0, 2.5])
    monkeypatch.setattr(score, "of_losses", lambda found, weight: next(values))
    train(command_line(twin, pictures, tmp_path / "out", **MEASURED, max_train_steps=4))
    train(command_line(twin, pictures, tmp_path / "two", learning_rate=1e-2, max_train_steps=2))
    assert_same(tmp_path / "out/unet", tmp_path / "two/unet")
    found = record(tmp_path / "out")
    assert found["saved_step"] == 2 and found["steps"] == 4
    assert [each["step"] for each in found["validations"]] == [0, 1, 2, 3, 4]
    assert {"validation_loss", "score", "step"} == set(found["validations"][0])
    assert "best      after update 2, of 4 validations, with the score 3.0000" in capsys.readouterr().out
    assert "4 updates" in (card := (tmp_path / "out/README.md").read_text()) and "those after update 2" in card
    curves = Image.open(tmp_path / "out/validation.png")
    assert curves.width == 640 and np.asarray(curves).std() > 10


def test_patience_ends_the_run_and_a_resumed_one_stays_at_its_end(twin, pictures, tmp_path, monkeypatch):
    table = {0: 0.0, 1: 1.0, 2: 5.0, 3: 2.0, 4: 3.0, 5: 9.0}
    steps = iter(range(99))
    monkeypatch.setattr(score, "of_losses", lambda found, weight: table[next(steps)])
    settings = dict(MEASURED, patience=2, max_train_steps=9, no_last_checkpoint=None)
    train(command_line(twin, pictures, tmp_path / "out", **settings))
    found = record(tmp_path / "out")
    assert found["steps"] == 4 and found["saved_step"] == 2
    before = (tmp_path / "out/unet/model_state.pdparams").read_bytes()
    train(command_line(twin, pictures, tmp_path / "out", **settings, resume_from_checkpoint="latest"))
    assert record(tmp_path / "out")["steps"] == 4
    assert (tmp_path / "out/unet/model_state.pdparams").read_bytes() == before


@pytest.mark.parametrize("lora", mostly_slow([{}, dict(lora_rank=2)]), ids=["whole", "LoRA"])
def test_a_resumed_run_chooses_as_one_that_was_not_stopped(lora, twin, pictures, clip, tmp_path):
    settings = dict(MEASURED, validation_steps=2, save_steps=2, ema_decay=0.5, clip_model_path=clip, **lora,
                    validation_prompt=["a photo of sks dog"], num_validation_images=2,
                    class_prompt="a photo of a dog")  # fmt: skip
    train(command_line(twin, pictures, tmp_path / "whole", **settings, max_train_steps=6))
    train(command_line(twin, pictures, tmp_path / "parts", **settings, max_train_steps=4))
    again = dict(max_train_steps=6, resume_from_checkpoint="checkpoint-2")
    train(command_line(twin, pictures, tmp_path / "parts", **settings, **again))
    one, other = record(tmp_path / "whole"), record(tmp_path / "parts")
    assert one["validations"] == other["validations"] and one["saved_step"] == other["saved_step"]
    assert set(one["validations"][1]) == {
        "step", "validation_loss", "CLIP-I", "CLIP-T", "PRES", "DIV", "score"
    }  # fmt: skip
    part = "" if lora else "unet"
    assert_same(tmp_path / "whole" / part, tmp_path / "parts" / part)
    samples = {path.name for path in (tmp_path / "whole/samples").iterdir()}
    drawn = {f"step-{step}-0-{k}.png" for step in (0, 2, 4, 6) for k in (0, 1)}
    assert drawn | {f"class-{name}" for name in drawn} == samples


def test_training_does_not_notice_that_it_is_measured(twin, pictures, clip, tmp_path):
    plain = dict(max_train_steps=3, train_text_encoder=True, random_flip=True)
    train(command_line(twin, pictures, tmp_path / "plain", **plain))
    more = draw_pictures(tmp_path / "more", 7)
    for path in sorted(more.iterdir())[:5]:
        path.unlink()  # which are those of the training
    measured = dict(validation_steps=1, clip_model_path=clip, validation_prompt=["sks dog"], num_validation_images=1)
    train(command_line(twin, pictures, tmp_path / "out", **plain, **measured, validation_data_dir=more))
    for part in ("unet", "text_encoder"):
        assert_same(tmp_path / "plain" / part, tmp_path / "out" / part)
    assert "saved_step" not in record(tmp_path / "out") and len(record(tmp_path / "out")["validations"]) == 4


def test_two_processes_choose_what_one_does(twin, pictures, tmp_path):
    settings = dict(MEASURED, max_train_steps=3)
    train(command_line(twin, pictures, tmp_path / "one", **settings, train_batch_size=2))
    done = launch(tmp_path, "train_dreambooth.py", *command_line(twin, pictures, tmp_path / "two", **settings))
    assert done.returncode == 0, done.stdout + done.stderr
    assert record(tmp_path / "one")["saved_step"] == record(tmp_path / "two")["saved_step"]
    assert largest_difference(tmp_path / "one/unet", tmp_path / "two/unet") < 1e-3


def test_pictures_that_it_trains_on_are_no_others(twin, pictures, tmp_path):
    with pytest.raises(BadInput, match="--validation_data_dir .* is one of the pictures to train on; give others"):
        train(command_line(twin, pictures, tmp_path / "out", **MEASURED, validation_data_dir=pictures))


def test_a_resumed_run_that_keeps_nothing_remembers_its_validations(twin, pictures, clip, tmp_path):
    settings = dict(validation_steps=1, clip_model_path=clip, validation_prompt=["sks dog"], num_validation_images=1,
                    learning_rate=1e-2, save_steps=2, **PRIOR)  # fmt: skip
    train(command_line(twin, pictures, tmp_path / "whole", **settings, max_train_steps=4))
    train(command_line(twin, pictures, tmp_path / "parts", **settings, max_train_steps=2))
    again = dict(max_train_steps=4, resume_from_checkpoint="latest")
    train(command_line(twin, pictures, tmp_path / "parts", **settings, **again))
    assert record(tmp_path / "whole")["validations"] == record(tmp_path / "parts")["validations"]


def test_measures_of_another_kind_are_a_change_and_begin_anew(twin, pictures, clip, tmp_path, capsys):
    settings = dict(MEASURED, save_steps=2)
    train(command_line(twin, pictures, tmp_path / "out", **settings, max_train_steps=2))
    again = dict(settings, max_train_steps=4, resume_from_checkpoint="latest")
    more = draw_pictures(tmp_path / "more", 7)
    for path in sorted(more.iterdir())[:5]:
        path.unlink()
    with pytest.raises(BadInput, match="the validation pictures' hashes: None then, 2 files now"):
        train(command_line(twin, pictures, tmp_path / "out", **again, validation_data_dir=more))
    clips = dict(clip_model_path=clip, validation_prompt=["sks dog"], num_validation_images=1)
    with pytest.raises(BadInput, match="measures: 'the loss, every 1 updates' then"):
        train(command_line(twin, pictures, tmp_path / "out", **again, **clips))
    with pytest.raises(BadInput, match="--clip_model_path: this checkpoint's run did not measure the base model"):
        train(command_line(twin, pictures, tmp_path / "out", **again, **clips, allow_changes=True))
    changed = dict(again, validation_steps=2, allow_changes=True)
    train(command_line(twin, pictures, tmp_path / "out", **changed))
    assert "the checkpoint's validations were measured otherwise" in capsys.readouterr().err
    assert [each["step"] for each in record(tmp_path / "out")["validations"]] == [2, 4]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(twin, pictures, tmp_path):
    (tmp_path / "out/samples").mkdir(parents=True)
    (tmp_path / "out/validation.png").touch()
    train(command_line(twin, pictures, tmp_path / "out", **MEASURED))
    train(command_line(twin, pictures, tmp_path / "out", overwrite=True, instance_prompt="a vdf dog"))
    assert not (tmp_path / "out/validation.png").exists()


def test_pictures_that_overwrite_would_remove_are_no_input(twin, pictures, tmp_path):
    train(command_line(twin, pictures, tmp_path / "out"))
    own = draw_pictures(tmp_path / "out/samples/subject", 2)
    line = dict(MEASURED, overwrite=True, instance_prompt="a vdf dog", validation_data_dir=own)
    other = draw_pictures(tmp_path / "other", 9) / "8.png"
    for path in own.iterdir():
        path.write_bytes(other.read_bytes())
    with pytest.raises(BadInput, match="--validation_data_dir .* has files of the run that --overwrite removes"):
        train(command_line(twin, pictures, tmp_path / "out", **line))
    assert len(list(own.iterdir())) == 2


def test_a_clip_that_is_none_is_refused_by_a_dry_run(twin, pictures, tmp_path):
    line = dict(validation_steps=1, validation_prompt=["sks dog"], dry_run=True)
    for path, said in ((tmp_path / "none", "there is no such folder"), (twin, "no CLIP model, it has no config.json")):
        with pytest.raises(BadInput, match=f"--clip_model_path .*{said}"):
            train(command_line(twin, pictures, tmp_path / "out", **line, clip_model_path=path))
