"""Whole runs and commands on a full disk: one line, exit code 1, and what was whole before stays whole."""

import re
import tempfile
from typing import get_args

import pytest
from PIL import Image
from support.commands import command_line, launch, one_error, train
from support.disks import FILLER, hidden, run_out
from support.weights import assert_same

import infer
import train_dreambooth
from dreambooth import export
from dreambooth.config.run_sections import SaveFormat
from dreambooth.files import atomic
from dreambooth.run import checkpoints, output_folder


@pytest.mark.parametrize("form", [*get_args(SaveFormat), "single_file", "lora_web_ui"])
def test_an_export_on_a_disk_that_fills_up(twin, pictures, small_disk, tmp_path, form, capfd):
    model, place = twin, small_disk / ("out" if form in get_args(SaveFormat) else "out.safetensors")
    if form == "lora_web_ui":
        model = tmp_path / "lora"
        train(command_line(twin, pictures, model, lora_rank=4, max_train_steps=1))
    for left in (0, 4) if form == "lora_web_ui" else (0, 500, 1000):
        small_disk.fill(left * 1024)
        line = one_error(capfd, export.main, ["--model_path", str(model), "--format", form, "--output", str(place)])
        assert re.fullmatch(rf"error: {place}: the disk is full(, \d+ MB are missing)?; nothing of it is left", line)
        assert [path.name for path in small_disk.iterdir()] == [FILLER]


def test_a_run_whose_checkpoint_finds_no_room_names_the_last_one(twin, pictures, small_disk, capfd, monkeypatch):
    out = small_disk / "out"
    line = command_line(twin, pictures, out, max_train_steps=3, save_steps=1)
    save = checkpoints.save

    def fill_up(output_dir, step, *learned):
        if step == 2:
            small_disk.fill(50_000)
        return save(output_dir, step, *learned)

    monkeypatch.setattr(checkpoints, "save", fill_up)
    error = one_error(capfd, train_dreambooth.main, line)
    assert re.fullmatch(
        rf"error: {out}/checkpoint-2: the disk is full, \d+ MB are missing; nothing of it is left;"
        rf" {out}/checkpoint-1 is whole: make room, and go on with --resume_from_checkpoint latest",
        error,
    )
    monkeypatch.undo()
    (small_disk / FILLER).unlink()
    train([*line, "--resume_from_checkpoint", "latest"])
    assert checkpoints.find("latest", out)[0].folder.name == "checkpoint-3"


@pytest.mark.parametrize("room", [True, False])
def test_a_pipeline_that_finds_no_room_leaves_the_earlier_one_and_a_checkpoint(
    twin, pictures, small_disk, tmp_path, capfd, monkeypatch, room
):
    out = small_disk / "out"
    line = command_line(twin, pictures, out, lora_rank=2, lora_merge=True, max_train_steps=2, save_steps=100)
    line.append("--overwrite")
    train(command_line(twin, pictures, out, max_train_steps=1))
    of_the_run = ("progress.jsonl", "report.html")  # beside the log
    files = [path for path in atomic.files_in(out) if "logs" not in path.parts and path.name not in of_the_run]
    earlier = {path: path.read_bytes() for path in files}
    save = output_folder.save_result

    def fill_up(*arguments):
        small_disk.fill(300_000 if room else 0)  # a LoRA's checkpoint is small
        save(*arguments)

    monkeypatch.setattr(output_folder, "save_result", fill_up)
    error = one_error(capfd, train_dreambooth.main, line)
    monkeypatch.undo()
    start = rf"error: the pipeline in {out}: the disk is full(, \d+ MB are missing)?; the earlier one is whole; "
    end = rf"{out}/checkpoint-2 is whole: make room, and go on with --resume_from_checkpoint latest"
    assert re.fullmatch(start + (end if room else "there is no checkpoint: make room, and start again"), error)
    assert all(path.read_bytes() == content for path, content in earlier.items()) and not hidden(out)
    (small_disk / FILLER).unlink()
    if room:  # what was learned becomes a pipeline without another step
        train([*line, "--resume_from_checkpoint", "latest"])
        train(command_line(twin, pictures, tmp_path / "whole", lora_rank=2, lora_merge=True, max_train_steps=2))
        assert_same(out / "unet", tmp_path / "whole/unet")


def test_class_pictures_that_find_no_room(twin, pictures, small_disk, tmp_path, capfd):
    small_disk.fill(12 * 1024)
    line = command_line(
        twin,
        pictures,
        tmp_path / "out",
        with_prior_preservation=True,
        class_data_dir=small_disk / "dogs",
        class_prompt="a photo of a dog",
        num_class_images=20,
        prior_inference_steps=1,
        max_train_steps=1,
    )
    error = one_error(capfd, train_dreambooth.main, line)
    assert re.fullmatch(
        rf"error: {small_disk}/dogs/a-photo-of-a-dog-32x32-[0-9a-f]+/\d+-[0-9a-f]+\.png: the disk is full; nothing of"
        " it is left; those before it are whole: make room, and the same command draws the others",
        error,
    )
    for path in (small_disk / "dogs").glob("*/*"):
        with Image.open(path) as image:
            image.load()
    assert not hidden(small_disk)
    small_disk.fill(2**20)
    train(line)
    assert len(list((small_disk / "dogs").glob("*/*"))) == 20


def test_a_run_whose_log_finds_no_room_goes_on(twin, pictures, small_disk, tmp_path, capfd):
    small_disk.fill(0)
    for writer_type in ("visualdl", "tensorboard"):
        out = tmp_path / writer_type
        train(command_line(twin, pictures, out, logging_dir=small_disk / writer_type, writer_type=writer_type))
        assert (out / "model_index.json").is_file()
        said = capfd.readouterr().err
        assert said.count("the log ends here") == 1 and "Traceback" not in said


def test_samples_that_find_no_room(twin, pictures, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", run_out)
    line = command_line(twin, pictures, tmp_path / "out", validation_prompt=["a photo of sks dog"],
                        num_validation_images=1, prior_inference_steps=1, max_train_steps=1)  # fmt: skip
    error = one_error(capfd, train_dreambooth.main, line)
    assert re.fullmatch(
        rf"error: {tmp_path}/out/samples/step-1-0-0.png: the disk is full; nothing of it is left;"
        rf" {tmp_path}/out/checkpoint-1 is whole: make room, and go on with --resume_from_checkpoint latest",
        error,
    )


def test_drawings_that_find_no_room(twin, tmp_path, capfd, monkeypatch):
    save, number = Image.Image.save, iter(range(9))
    monkeypatch.setattr(Image.Image, "save", lambda *a, **b: run_out() if next(number) == 2 else save(*a, **b))
    line = ["--model_path", str(twin), "--prompt", "a dog", "--num_images", "3", "--num_inference_steps", "1",
            "--output_dir", str(tmp_path / "drawn")]  # fmt: skip
    error = one_error(capfd, infer.main, line)
    assert error.endswith(
        "a-dog-0-seed0-2.png: the disk is full; nothing of it is left; 2 pictures before it are whole"
    )
    assert len(list((tmp_path / "drawn").iterdir())) == 2


def test_a_full_disk_anywhere_else_is_one_line_too(twin, pictures, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(train_dreambooth.description, "describe", run_out)
    error = one_error(capfd, train_dreambooth.main, command_line(twin, pictures, tmp_path / "out"))
    assert error == "error: the output or a temporary file: the disk is full"
    assert not (tmp_path / "out").exists()


def test_a_model_whose_temporary_copy_finds_no_room(twin, small_disk, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    small_disk.fill(0)
    line = one_error(capfd, infer.main, ["--model_path", str(twin), "--prompt", "a dog"])
    assert line == (
        f"error: a copy of {twin} in {small_disk}: the disk is full; the model itself is whole;"
        " set TMPDIR to a folder with more room"
    )


@pytest.mark.parametrize("what", ["checkpoint", "class pictures"])
def test_two_processes_that_find_no_room_end_in_one_line(twin, pictures, small_disk, tmp_path, what):
    small_disk.fill(4_500_000 if what == "checkpoint" else 20_000)
    more = dict(save_steps=1)
    if what == "class pictures":
        more = dict(with_prior_preservation=True, class_prompt="a dog", num_class_images=40, prior_inference_steps=1,
                    class_data_dir=small_disk / "dogs")  # fmt: skip
    out = small_disk / "out" if what == "checkpoint" else tmp_path / "out"
    done = launch(tmp_path, "train_dreambooth.py", *command_line(twin, pictures, out, max_train_steps=3, **more))
    assert done.returncode != 0
    said = "\n".join(log.read_text() for log in sorted((tmp_path / "launcher").glob("workerlog.*")))
    errors = [line for line in said.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "the disk is full" in errors[0] and "Traceback" not in said, said
    assert not hidden(small_disk)
