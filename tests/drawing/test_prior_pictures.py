"""Class pictures: the same files however they are drawn, kept where they are, drawn where they are missing."""

import dataclasses
import hashlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support import forks
from support.commands import launch, train
from support.pictures import draw_pictures

from dreambooth.config.concept_sections import ClassSettings
from dreambooth.data import picture_files
from dreambooth.drawing import prior_pictures, sampling
from dreambooth.models import loading
from dreambooth.system import disk
from dreambooth.system.errors import BadInput

COUNT = 5


@pytest.fixture
def prior_flags(flags, tmp_path):
    return lambda folder, **changes: flags(
        **dict(
            with_prior_preservation=True,
            class_data_dir=folder,
            class_prompt="a photo of a dog",
            num_class_images=COUNT,
            max_train_steps=1,
            output_dir=tmp_path / f"out of {folder.name}",
        )
        | changes
    )


def contents(folder):
    """The files of a folder and of those below it, by name."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_class_pictures_are_the_same_files_whatever_the_batch_and_the_number_of_processes(prior_flags, tmp_path):
    for batch in (1, 2, 4):
        train(prior_flags(tmp_path / f"batch {batch}", sample_batch_size=batch))
    done = launch(tmp_path, "train_dreambooth.py", *prior_flags(tmp_path / "processes", sample_batch_size=2))
    assert done.returncode == 0, done.stdout + done.stderr
    one = contents(tmp_path / "batch 1")
    assert len(one) == COUNT and all(re.match(r"^[0-4]-[0-9a-f]{40}\.png$", name) for name in one)
    for other in ("batch 2", "batch 4", "processes"):
        assert contents(tmp_path / other) == one


def test_what_is_there_is_kept_and_only_the_missing_ones_are_drawn(prior_flags, tmp_path):
    folder = tmp_path / "class"
    train(prior_flags(folder))
    whole = contents(folder)
    [lost] = folder.glob("*/1-*.png")
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/*")}
    train(prior_flags(folder))
    assert contents(folder) == whole
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_ones_own_pictures_of_the_class_count_and_are_not_touched(prior_flags, tmp_path):
    folder = draw_pictures(tmp_path / "class", 3)
    own = contents(folder)
    train(prior_flags(folder))
    after = contents(folder)
    assert own.items() <= after.items() and len(after) == COUNT
    assert {name.split("-")[0] for name in after.keys() - own.keys()} == {"0", "1"}


def test_enough_pictures_need_no_drawing(prior_flags, tmp_path, capfd):
    folder = draw_pictures(tmp_path / "class", COUNT + 2)
    train(prior_flags(folder))
    assert "Class pictures" not in capfd.readouterr().err and len(contents(folder)) == COUNT + 2


def test_each_prompt_and_each_model_has_a_folder(prior_flags, twin, tmp_path, capfd):
    folder = tmp_path / "class"
    train(prior_flags(folder))
    [dogs] = folder.iterdir()
    assert (
        re.fullmatch("a-photo-of-a-dog-32x32-[0-9a-f]{8}", dogs.name)
        and f"5 of them still to be drawn into {dogs}" in capfd.readouterr().out
    )
    of_dogs = contents(dogs)
    train(prior_flags(folder, class_prompt="a photo of a cat", overwrite=True))
    [cats] = (each for each in folder.iterdir() if each != dogs)
    assert cats.name.startswith("a-photo-of-a-cat-") and len(contents(cats)) == COUNT and contents(dogs) == of_dogs
    # another model is one whose weights differ, not one of another path
    shutil.copytree(twin, tmp_path / "moved")
    train(prior_flags(folder, pretrained_model_name_or_path=tmp_path / "moved", overwrite=True))
    assert len(list(folder.iterdir())) == 2 and contents(dogs) == of_dogs
    [weights] = (tmp_path / "moved/unet").glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-4:] = np.float32(0.25).tobytes()
    weights.write_bytes(data)
    train(prior_flags(folder, pretrained_model_name_or_path=tmp_path / "moved", overwrite=True))
    assert len(list(folder.iterdir())) == 3 and len({path.name[:17] for path in folder.iterdir()}) == 2


@pytest.mark.parametrize("prompt", ["一张狗的照片", "a/../b: *", "...", "x" * 300])
def test_a_prompt_of_any_kind_makes_a_folder(prior_flags, tmp_path, prompt):
    folder = prior_pictures.folder_of(ClassSettings(prompt, str(tmp_path), 1), Origin(), (48, 32))
    assert folder.parent == tmp_path and len(folder.name.encode()) < 150 and "-32x48-" in folder.name
    folder.mkdir()


def test_a_model_without_t5_draws_other_class_pictures(tmp_path):
    settings = ClassSettings("a dog", str(tmp_path), 1)
    folders = {prior_pictures.folder_of(settings, Origin(without), (32, 32)) for without in (False, True)}
    assert len(folders) == 2


def test_a_negative_prompt_has_a_folder_and_changes_the_pictures(prior_flags, tmp_path):
    folder = tmp_path / "class"
    train(prior_flags(folder))
    train(prior_flags(folder, class_negative_prompt="blurred", overwrite=True))
    plain, negative = sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime_ns)
    assert (
        len(contents(plain)) == len(contents(negative)) == COUNT
        and not contents(plain).keys() & contents(negative).keys()
    )
    for place, text in ((plain, None), (negative, "blurred")):
        for path in place.iterdir():
            with Image.open(path) as image:
                assert image.info.get("negative_prompt") == text and image.info["prompt"] == "a photo of a dog"


class Origin:
    name = "./model"

    def __init__(self, without_t5=False):
        self.without_t5 = without_t5

    def fingerprint(self):
        return "weights 123"


def test_pictures_of_an_earlier_version_are_found_and_those_of_another_prompt_refused(
    prior_flags, tmp_path, twin, monkeypatch
):
    folder = tmp_path / "class"
    train(prior_flags(folder))
    [drawn] = folder.iterdir()
    for path in drawn.iterdir():  # where they lay, and what they said
        with Image.open(path) as image:
            text = PngInfo()
            text.add_text("prompt", "a photo of a dog")
            text.add_text("model", f"{twin.parent}/./{twin.name}/")
            image.save(folder / path.name, pnginfo=text)
    shutil.rmtree(drawn)
    before = contents(folder)
    train(prior_flags(folder))
    assert contents(folder) == before
    complaint = "5 of its pictures were drawn with another prompt or model .*'a photo of a dog'.* move them away"
    with pytest.raises(BadInput, match=f"--class_data_dir {folder}: {complaint}"):
        train(prior_flags(folder, class_prompt="a photo of a cat", overwrite=True))
    assert contents(folder) == before
    # somebody moves pictures into the folder of another prompt
    train(prior_flags(tmp_path / "cats", class_prompt="a photo of a cat"))
    [cats] = (tmp_path / "cats").iterdir()
    for path in folder.iterdir():
        shutil.copy(path, cats)
    with pytest.raises(BadInput, match=complaint):
        train(prior_flags(tmp_path / "cats", class_prompt="a photo of a cat"))


def test_a_drawn_picture_under_another_name_is_known_by_its_text(prior_flags, tmp_path):
    folder = tmp_path / "class"
    train(prior_flags(folder, class_prompt="a photo of a cat"))
    [drawn] = folder.iterdir()
    for number, path in enumerate(sorted(drawn.iterdir())):
        shutil.copy(path, folder / f"mine {number}.png")
    with pytest.raises(BadInput, match="5 of its pictures were drawn with another prompt .*'a photo of a cat'"):
        train(prior_flags(folder))


def test_a_damaged_picture_is_drawn_anew(prior_flags, tmp_path, capfd):
    folder = tmp_path / "class"
    settings = dict(max_train_steps=2, save_steps=1)
    train(prior_flags(folder, **settings))
    whole = contents(folder)
    path = sorted(folder.glob("*/*.png"))[1]
    path.write_bytes(path.read_bytes()[:700])
    train(prior_flags(folder, resume_from_checkpoint="checkpoint-1", **settings))
    assert contents(folder) == whole
    said = capfd.readouterr()
    assert "it is not counted" in said.err and "1 of them still to be drawn" in said.out
    train(prior_flags(folder, **settings))
    assert f"5 pictures that are there, in {folder}" in capfd.readouterr().out


def test_another_size_has_pictures_of_that_size(prior_flags, tmp_path):
    train(prior_flags(tmp_path / "class"))
    train(prior_flags(tmp_path / "class", resolution=16))
    for folder, size in zip(sorted((tmp_path / "class").iterdir()), (16, 32)):
        for path in folder.iterdir():
            with Image.open(path) as image:
                assert image.size == (size, size)


def test_a_name_of_a_model_that_is_no_path_is_another_model(prior_flags, tmp_path):
    folder = draw_pictures(tmp_path / "class", 1)
    text = PngInfo()
    text.add_text("prompt", "a photo of a dog")
    text.add_text("model", "a\0b")
    black = Image.new("RGB", (32, 32))
    black.save(folder / f"0-{hashlib.sha1(black.tobytes()).hexdigest()}.png", pnginfo=text)
    with pytest.raises(BadInput, match="1 of its pictures were drawn with another prompt or model"):
        train(prior_flags(folder))


def test_pictures_that_cannot_be_drawn_are_refused_before_the_training(prior_flags, tmp_path, monkeypatch):
    folder = draw_pictures(tmp_path / "class", COUNT)
    monkeypatch.setattr(disk, "can_be_written", lambda path: not path.is_relative_to(folder))
    train(prior_flags(folder))  # all are there
    with pytest.raises(BadInput, match=f"--class_data_dir {folder}: it can't be written, and 1 pictures are missing"):
        train(prior_flags(folder, num_class_images=COUNT + 1))


def test_a_class_picture_says_what_drew_it(prior_flags, tmp_path, twin):
    train(prior_flags(tmp_path / "class"))
    with Image.open(next((tmp_path / "class").glob("*/*"))) as image:
        assert image.info["prompt"] == "a photo of a dog" and image.info["model"] == str(twin)
        assert image.info["weights"] == loading.Source(str(twin)).fingerprint()
        assert {key: image.info[key] for key in ("seed", "steps", "scheduler")} == {
            "seed": "0",
            "steps": "2",
            "scheduler": "dpmsolver++",
        }


def test_missing_numbers_are_the_lowest_free_ones():
    class Drawn:
        def __init__(self, name):
            self.path = type("path", (), {"name": name})

    sha = "0" * 40
    assert prior_pictures._missing_numbers([], 3) == [0, 1, 2]
    assert prior_pictures._missing_numbers([Drawn(f"1-{sha}.png"), Drawn("photo.jpg")], 4) == [0, 2]
    assert prior_pictures._missing_numbers([Drawn(f"{number}-{sha}.png") for number in range(5)], 3) == []


def test_the_solver_is_chosen_and_the_models_own_is_saved(prior_flags, tmp_path, monkeypatch):
    drawn = []
    draw = sampling.draw

    def listening(family, settings, requests):
        drawn.append((settings.scheduler, settings.steps))
        return draw(family, settings, requests)

    monkeypatch.setattr(sampling, "draw", listening)
    train(prior_flags(tmp_path / "fast", prior_inference_steps=None))
    train(prior_flags(tmp_path / "own", prior_scheduler="own", prior_inference_steps=3))
    assert drawn == [("dpmsolver++", 20), (None, 3)]
    assert contents(tmp_path / "fast") != contents(tmp_path / "own")
    assert "PNDMScheduler" in (tmp_path / "out of fast/scheduler/scheduler_config.json").read_text()


def test_more_steps_than_the_model_has_are_refused(prior_flags, tmp_path):
    with pytest.raises(BadInput, match="--prior_inference_steps 1001: the model has 1000"):
        train(prior_flags(tmp_path / "many", prior_inference_steps=1001))


# a run that draws its class pictures when another one is there to draw its own
MEET = """
import pathlib, sys, time
import train_dreambooth
from dreambooth.drawing import prior_pictures
from dreambooth.system import console

draw_missing = prior_pictures.draw_missing

def meet_and_draw(*arguments):
    folder = pathlib.Path(sys.argv[1])
    (folder / sys.argv[2]).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    return draw_missing(*arguments)

prior_pictures.draw_missing = meet_and_draw
console.run_command(train_dreambooth.main, sys.argv[3:])
"""


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_two_runs_that_draw_into_one_folder_at_the_same_time_do_not_damage_each_others_pictures(
    prior_flags, tmp_path, seeds
):
    folder = tmp_path / "class"
    settings = dict(num_class_images=12, prior_inference_steps=2, save_steps=1)
    lines = [prior_flags(folder, seed=seed, output_dir=tmp_path / str(n), **settings) for n, seed in enumerate(seeds)]
    (tmp_path / "meeting").mkdir()
    (tmp_path / "meet.py").write_text(MEET)
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    meet = [str(tmp_path / "meet.py"), str(tmp_path / "meeting")]
    code = forks.run_together([[*meet, str(number), *line] for number, line in enumerate(lines)], logs)
    assert code == 0, [log.read_text() for log in logs]
    [drawn] = folder.iterdir()
    names = sorted(path.name for path in drawn.iterdir())
    assert len(names) == (12 if seeds == (0, 0) else 24) and all(re.match(r"^\d+-[0-9a-f]{40}\.png$", x) for x in names)
    for path in drawn.iterdir():
        with Image.open(path) as image:
            assert hashlib.sha1(image.convert("RGB").tobytes()).hexdigest() == path.stem.split("-")[1]
    # what each run recorded is there, so that it can be resumed
    for line in lines:
        train([*line, "--resume_from_checkpoint", "latest", "--max_train_steps", "2"])


def test_a_resumed_run_uses_its_own_pictures_whatever_others_have_added(prior_flags, tmp_path):
    folder = tmp_path / "class"
    settings = dict(max_train_steps=2, save_steps=1)
    train(prior_flags(folder, **settings))
    straight = contents(tmp_path / "out of class/unet")
    for number in range(3):  # they stand before the others in the order of names
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"0-{number}.png")
    train(prior_flags(folder, **settings, resume_from_checkpoint="checkpoint-1"))
    assert contents(tmp_path / "out of class/unet") == straight


@pytest.mark.parametrize("first", [True, False])
def test_all_processes_use_the_pictures_that_the_first_one_found(tmp_path, monkeypatch, first):
    folder = draw_pictures(tmp_path / "class", 4)
    pictures, _, _ = picture_files.scan_folder(folder)
    Image.new("RGB", (8, 8)).save(folder / "00.png")  # another run's, which came later
    settings = ClassSettings("a photo of a dog", str(folder), 3)
    said = [str(picture.path) for picture in pictures[:3]]
    monkeypatch.setattr(prior_pictures.processes, "is_first", lambda: first)
    monkeypatch.setattr(prior_pictures.processes, "broadcast", lambda value: said)
    found = prior_pictures._choose(pictures if first else [], settings, folder / "below")
    assert found == tuple(pictures[:3])
    elsewhere = dataclasses.replace(settings, folder=str(tmp_path / "another machine"))
    assert prior_pictures._choose([], elsewhere, tmp_path / "another machine/below") == ()


def test_what_a_killed_run_left_is_no_picture_and_is_cleaned_away(prior_flags, tmp_path):
    folder = draw_pictures(tmp_path / "class", 1)
    (folder / ".0-abc.png.0123abcd.unfinished").write_bytes(b"\x89PNG half")
    (folder / ".3.unfinished").write_bytes(b"\x89PNG half")
    train(prior_flags(folder))
    assert len(contents(folder)) == COUNT and not [name for name in contents(folder) if name.startswith(".")]


def test_a_picture_with_other_pixels_than_were_drawn_is_drawn_anew(prior_flags, tmp_path, capfd):
    """As after a damage that its format does not show."""
    folder = tmp_path / "class"
    train(prior_flags(folder))
    whole = contents(folder)
    path = sorted(folder.glob("*/*.png"))[1]
    with Image.open(path) as image:
        text = PngInfo()
        for name, value in image.info.items():
            text.add_text(name, value)
        image.putpixel((3, 3), (1, 2, 3))
        image.save(path, pnginfo=text)
    train(prior_flags(folder))
    said = capfd.readouterr()
    assert f"{path} claims to be a picture and can't be read (its pixels are not those that were drawn)" in said.err
    assert "1 of them still to be drawn" in said.out and contents(folder) == whole
