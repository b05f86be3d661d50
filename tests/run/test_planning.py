"""The plan: steps and epochs, warnings, and the lines that describe a run."""

from functools import partial

import pytest
from support.commands import train
from support.pictures import draw_pictures

from dreambooth.config.parser import read_config
from dreambooth.run import planning
from dreambooth.system.errors import BadInput


def made(line):
    return planning.make(read_config(line, ""))


@pytest.mark.parametrize(
    "changes, steps",
    [
        (dict(max_train_steps=None), 400),
        (dict(max_train_steps=None, lora_rank=4), 800),
        (dict(max_train_steps=None, num_train_epochs=1), 5),
        (dict(max_train_steps=None, num_train_epochs=3, train_batch_size=2), 8),
        (dict(max_train_steps=None, num_train_epochs=1, gradient_accumulation_steps=8), 1),
        (dict(max_train_steps=7, num_train_epochs=3), 7),
    ],
)
def test_steps_follow_from_epochs_unless_they_are_given(flags, changes, steps):
    assert made(flags(**changes))[1].steps == steps


def test_with_class_pictures_an_epoch_goes_through_the_longer_list(flags, tmp_path):
    prior = dict(with_prior_preservation=True, class_prompt="a dog", class_data_dir=tmp_path / "class")
    prior.update(max_train_steps=None, num_train_epochs=1)
    assert made(flags(num_class_images=20, **prior))[1].steps == 20
    assert made(flags(num_class_images=2, **prior))[1].steps == 5


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(max_train_steps=99), "--max_train_steps 99: 99 updates seldom teach a subject"),
        (dict(max_train_steps=None, num_train_epochs=2), "--num_train_epochs 2: 10 updates seldom teach a subject"),
        (dict(max_train_steps=100), None),
        (dict(max_train_steps=None), None),
    ],
)
def test_a_run_of_few_updates_is_reported(flags, capsys, changes, said):
    made(flags(**changes))
    printed = capsys.readouterr().err
    assert (said in printed and "a run of this kind makes 400" in printed) if said else printed == ""


def test_an_early_update_is_refused_in_several_processes(flags, monkeypatch):
    made(flags(early_update=True))
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    made(flags())
    with pytest.raises(BadInput, match="^--early_update can't be combined with 2 processes"):
        made(flags(early_update=True))


def test_a_squeeze_of_more_than_a_tenth_is_reported_once_and_names_the_remedy(flags, tmp_path, capsys):
    wide = draw_pictures(tmp_path / "wide", 3, size=(60, 40))
    flags = partial(flags, max_train_steps=100)
    made(flags(instance_data_dir=wide))
    [warning] = capsys.readouterr().err.splitlines()
    assert "3 of 3 pictures are squeezed" in warning and "--center_crop" in warning
    made(flags(instance_data_dir=wide, center_crop=True))
    made(flags(instance_data_dir=draw_pictures(tmp_path / "nearly", 3, size=(43, 40))))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(learning_rate=0.5), "--learning_rate 0.5 is very high; 5e-06 is usual"),
        (dict(lora_rank=4000), "--lora_rank 4000 is very high"),
        (dict(resolution=512), "5 of 5 pictures are less than half as large as --resolution needs (0.png has 40 x 40"),
    ],
)
def test_settings_that_are_probably_mistakes_are_reported(flags, capsys, changes, said):
    made(flags(max_train_steps=100, **changes))
    assert said in capsys.readouterr().err


def test_pictures_that_teach_nothing_are_reported(flags, tmp_path, capsys):
    folder = draw_pictures(tmp_path / "few", 2)
    (folder / "again.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "IMG_1.HEIC").write_bytes(b"ftypheic")
    made(flags(max_train_steps=100, instance_data_dir=folder))
    printed = capsys.readouterr().err
    assert "some of its pictures are the same file twice" in printed
    assert "IMG_1.HEIC is in a phone's format, HEIC, and not trained on" in printed


def test_a_warmup_that_never_ends_is_reported(flags, capsys):
    flags = partial(flags, max_train_steps=100)
    made(flags(lr_scheduler="linear"))
    assert "--lr_warmup_steps 500" in capsys.readouterr().err
    made(flags(lr_scheduler="linear", lr_warmup_steps=1))
    made(flags())
    assert capsys.readouterr().err == ""


def test_a_prompt_that_is_too_long_is_reported_with_the_part_that_is_lost(flags, capsys):
    train(flags(instance_prompt="a photo of sks dog with a very long red and white hat", max_train_steps=1))
    assert 'this part is lost: "' in capsys.readouterr().err


def test_files_that_were_passed_over_are_counted(flags, tmp_path):
    folder = draw_pictures(tmp_path / "mixed", 2)
    for name in ("notes.txt", "Thumbs.db", ".DS_Store"):
        (folder / name).write_text("x")
    _, plan = made(flags(instance_data_dir=folder))
    assert len(plan.pictures) == 2 and {path.name for path in plan.survey.others} == {"notes.txt", "Thumbs.db"}


def test_a_run_that_would_replace_its_own_checkpoints_is_warned_of(flags, tmp_path, capsys):
    train(flags(max_train_steps=2, save_steps=1))
    complaint = f"--output_dir {tmp_path / 'out'}: it holds checkpoints, which this run begins to replace"
    assert complaint not in capsys.readouterr().err
    made(flags(max_train_steps=2))
    assert complaint in capsys.readouterr().err
    made(flags(max_train_steps=3, resume_from_checkpoint="latest"))
    assert complaint not in capsys.readouterr().err


def with_captions(folder, texts):
    folder = draw_pictures(folder, 3)
    for path, text in zip(sorted(folder.iterdir()), texts):
        path.with_suffix(".txt").write_text(text)
    return folder


def test_captions_are_used_where_every_picture_has_one(flags, tmp_path, capsys):
    folder = with_captions(tmp_path / "dog", ["a {} in snow", "a sks dog", "a dog"])
    line = flags(instance_data_dir=folder, subject="sks dog", dry_run=True)
    plan = made(line)[1]
    assert [each.caption for each in plan.pictures] == [
        "a sks dog in snow",
        "a sks dog",
        "a dog",
    ] and not plan.survey.others
    without = made([*line, "--captions", "off"])[1]
    assert [each.caption for each in without.pictures] == [None] * 3 and len(without.survey.others) == 3
    changed = plan.fingerprint.keys() ^ without.fingerprint.keys()
    assert changed == {"the pictures' captions"}
    (folder / "0.txt").write_text("another")
    assert made(line)[1].fingerprint["the pictures' captions"] != plan.fingerprint["the pictures' captions"]
    capsys.readouterr()
    train(line)
    said = capsys.readouterr()
    assert 'prompt    a caption for each picture, from .txt files: "another", …' in said.out
    assert '2 of 3 captions lack "sks", the identifier of "a photo of sks dog" (0.png)' in said.err + said.out


def test_captions_that_lack_a_picture_are_reported_and_not_used(flags, tmp_path, capsys):
    folder = with_captions(tmp_path / "dog", ["a sks dog", "a sks dog"])
    plan = made(flags(instance_data_dir=folder))[1]
    assert not any(each.caption for each in plan.pictures) and not any(plan.survey.captions)
    assert "1 of 3 pictures have no caption, or an empty one (2.png)" in capsys.readouterr().err


def test_a_caption_with_a_place_needs_the_subject(flags, tmp_path):
    folder = with_captions(tmp_path / "dog", ["a {}", "a {}", "a {}"])
    with pytest.raises(BadInput, match=r"the caption of .*0.png: {} stands for the subject; give it, as --subject"):
        made(flags(instance_data_dir=folder))
