"""A full disk, at any moment of writing: one line, exit code 1, and what was whole before stays whole and loads."""

import json
import re
import tempfile
from pathlib import Path

import pytest
from PIL import Image
from support.commands import command_line, train
from support.disks import FILLER, run_out
from support.families import load_pipeline
from support.weights import assert_same

import infer
import train_dreambooth
from dreambooth import export, metrics
from dreambooth.drawing import prior_pictures
from dreambooth.files import atomic
from dreambooth.models import saving
from dreambooth.run import checkpoints, output_folder
from dreambooth.system import console, disk

LEVELS = [0, 4, 8, 20, 64, 128, 256, 400, 600, 800, *range(900, 1300, 20), 1600, 2000, *range(2900, 3200, 15)]  # KiB


@pytest.fixture(scope="module")
def recorded(twin, pictures, tmp_path_factory):
    """The arguments with which a short run writes its checkpoint and its pipeline."""
    calls = {}
    folder = tmp_path_factory.mktemp("recorded") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((checkpoints, "save"), (output_folder, "save_result")):
            patch.setattr(module, name, lambda *arguments, name=name: calls.setdefault(name, arguments) and folder)
        train(command_line(twin, pictures, folder, max_train_steps=1, save_steps=1))
    return calls


def with_settings(config, **changes):
    """A run's settings with some flags changed."""
    return type(config).from_flat(**{**config.flat(), **changes})


def hidden(folder):
    return [str(path) for path in folder.rglob(".*")]


def one_line(capfd, main, line):
    """Run a command to its end; return the line that is its error."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        console.run_command(main, line)
    said = capfd.readouterr()
    assert ended.value.code == 1 and "Traceback" not in said.err + said.out
    [error] = [text for text in said.err.splitlines() if text.startswith("error: ")]
    assert said.err.rstrip().endswith(error)
    return error


def test_a_checkpoint_on_a_disk_that_fills_up(recorded, small_disk):
    _, _, *learned = recorded["save"]
    before = checkpoints.save(small_disk / "out", 7, *learned)
    state = checkpoints.read_state(before)
    size = sum(path.stat().st_size for path in atomic.files_in(before))
    found = set()
    for left in LEVELS:
        small_disk.fill(left * 1024)
        free = disk.free_space(small_disk)
        try:
            checkpoints.save(small_disk / "out", 8, *learned)
            atomic.remove(small_disk / "out/checkpoint-8")
            found.add("written")
        except disk.DiskFull as error:
            line = rf"{small_disk}/out/checkpoint-8: the disk is full(?:, (\d+) MB are missing)?; nothing of it is left"
            missing = re.fullmatch(line, str(error))[1]
            assert missing is None or abs(int(missing) * 10**6 - (size - free)) < 1.1 * 10**6
            found.add("refused" if missing else "failed")
        assert not hidden(small_disk) and disk.free_space(small_disk) == free
        assert checkpoints.scan(small_disk / "out") == ([(before, state)], [])
    assert found == {"refused", "failed", "written"}


@pytest.mark.parametrize("save_format", saving.FORMATS)
def test_a_pipeline_on_a_disk_that_fills_up(recorded, small_disk, save_format):
    family, config, record, card = recorded["save_result"]
    config = with_settings(config, output_dir=str(small_disk / "out"), save_format=save_format)
    output_folder.save_result(family, config, {**record, "steps": "the earlier one"}, card)
    earlier = {path: path.read_bytes() for path in atomic.files_in(small_disk / "out")}
    found = set()
    for left in LEVELS[::3]:
        small_disk.fill(left * 1024)
        free = disk.free_space(small_disk)
        try:
            output_folder.save_result(family, config, record, card)
            found.add("written")
            break
        except disk.DiskFull as error:
            found.add("full")
            line = (
                rf"the pipeline in {small_disk}/out: the disk is full(, \d+ MB are missing)?; the earlier one is whole"
            )
            assert re.fullmatch(line, str(error))
        assert not hidden(small_disk) and disk.free_space(small_disk) == free
        assert {path: path.read_bytes() for path in atomic.files_in(small_disk / "out")} == earlier
    assert found == {"full", "written"}
    assert json.loads((small_disk / "out/training_args.json").read_text())["steps"] == record["steps"]
    load_pipeline(small_disk / "out")


@pytest.mark.parametrize("what", ["class picture", "sample", "sheet", "metrics", "drawing"])
def test_a_picture_on_a_disk_that_fills_up(recorded, small_disk, what):
    config = with_settings(
        recorded["save_result"][1],
        output_dir=str(small_disk),
        with_prior_preservation=True,
        class_data_dir=str(small_disk),
        class_prompt="a photo of a dog",
        validation_prompt=("a photo of a dog",),
        num_validation_images=1,
    )
    picture = Image.effect_noise((64, 64), 100).convert("RGB")
    write = {
        "class picture": lambda: prior_pictures.save(picture, small_disk, 3, config),
        "sample": lambda: output_folder.save_samples(config, 3, [picture]),
        "sheet": lambda: atomic.write_picture(small_disk / "sheet.png", picture),
        "metrics": lambda: metrics.save_pictures([[picture]], small_disk / "pictures"),
        "drawing": lambda: infer.save(picture, small_disk / "drawn.png", {"prompt": "x" * 500}),
    }[what]
    found = set()
    for left in (0, 4, 8, 12, 16, 20, 40):
        small_disk.fill(left * 1024)
        free = disk.free_space(small_disk)
        try:
            write()
            [path] = [path for path in atomic.files_in(small_disk) if path.name != FILLER]
            with Image.open(path) as image:
                image.load()
            path.unlink()
            found.add("written")
        except disk.DiskFull as error:
            assert re.fullmatch(r"/.*\.png: the disk is full; nothing of it is left", str(error))
            assert disk.free_space(small_disk) in (free, free - 4096)  # its folder may be there
            found.add("full")
        assert not hidden(small_disk)
    assert found == {"full", "written"}


@pytest.mark.parametrize("form", [*saving.FORMATS, "single_file", "lora_web_ui"])
def test_an_export_on_a_disk_that_fills_up(twin, pictures, small_disk, tmp_path, form, capfd):
    model, place = twin, small_disk / ("out" if form in saving.FORMATS else "out.safetensors")
    if form == "lora_web_ui":
        model = tmp_path / "lora"
        train(command_line(twin, pictures, model, lora_rank=4, max_train_steps=1))
    for left in (0, 4) if form == "lora_web_ui" else (0, 500, 1000):
        small_disk.fill(left * 1024)
        line = one_line(capfd, export.main, ["--model_path", str(model), "--format", form, "--output", str(place)])
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
    error = one_line(capfd, train_dreambooth.main, line)
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
    train(command_line(twin, pictures, out, max_train_steps=1))
    earlier = {path: path.read_bytes() for path in atomic.files_in(out) if "logs" not in path.parts}
    save = output_folder.save_result

    def fill_up(*arguments):
        small_disk.fill(300_000 if room else 0)  # a LoRA's checkpoint is small
        save(*arguments)

    monkeypatch.setattr(output_folder, "save_result", fill_up)
    error = one_line(capfd, train_dreambooth.main, line)
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
    error = one_line(capfd, train_dreambooth.main, line)
    assert re.fullmatch(
        rf"error: {small_disk}/dogs/\d+-[0-9a-f]+\.png: the disk is full; nothing of it is left; those before it are"
        " whole: make room, and the same command draws the others",
        error,
    )
    for path in (small_disk / "dogs").iterdir():
        with Image.open(path) as image:
            image.load()
    assert not hidden(small_disk)
    small_disk.fill(2**20)
    train(line)
    assert len(list((small_disk / "dogs").iterdir())) == 20


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
    error = one_line(capfd, train_dreambooth.main, line)
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
    error = one_line(capfd, infer.main, line)
    assert error.endswith(
        "a-dog-0-seed0-2.png: the disk is full; nothing of it is left; 2 pictures before it are whole"
    )
    assert len(list((tmp_path / "drawn").iterdir())) == 2


def test_a_full_disk_anywhere_else_is_one_line_too(twin, pictures, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(train_dreambooth.planning, "describe", run_out)
    error = one_line(capfd, train_dreambooth.main, command_line(twin, pictures, tmp_path / "out"))
    assert error == "error: a temporary file: the disk is full"
    assert Path(tmp_path / "out").exists() is False


def test_a_model_whose_temporary_copy_finds_no_room(twin, small_disk, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    small_disk.fill(0)
    line = one_line(capfd, infer.main, ["--model_path", str(twin), "--prompt", "a dog"])
    assert line == (
        f"error: a copy of {twin} in {small_disk}: the disk is full; the model itself is whole;"
        " set TMPDIR to a folder with more room"
    )
