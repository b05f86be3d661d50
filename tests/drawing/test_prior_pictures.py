"""Class pictures: the same files however they are drawn, kept where they are, drawn where they are missing."""

import re

import pytest
from PIL import Image
from support.commands import launch, train
from support.pictures import draw_pictures

from dreambooth.drawing import prior_pictures, sampling
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
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
    [lost] = folder.glob("1-*.png")
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
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


def test_pictures_that_another_prompt_drew_are_pointed_out(prior_flags, tmp_path, capfd):
    folder = tmp_path / "class"
    train(prior_flags(folder))
    assert "another prompt" not in capfd.readouterr().err
    train(prior_flags(folder, class_prompt="a photo of a cat"))
    assert "5 of its pictures were drawn with another prompt or model" in capfd.readouterr().err


def test_a_class_picture_says_what_drew_it(prior_flags, tmp_path, twin):
    train(prior_flags(tmp_path / "class"))
    with Image.open(next((tmp_path / "class").iterdir())) as image:
        assert image.info["prompt"] == "a photo of a dog" and image.info["model"] == str(twin)


def test_missing_numbers_are_the_lowest_free_ones():
    class Drawn:
        def __init__(self, name):
            self.path = type("path", (), {"name": name})

    sha = "0" * 40
    assert prior_pictures.missing([], 3) == [0, 1, 2]
    assert prior_pictures.missing([Drawn(f"1-{sha}.png"), Drawn("photo.jpg")], 4) == [0, 2]
    assert prior_pictures.missing([Drawn(f"{number}-{sha}.png") for number in range(5)], 3) == []


def test_the_solver_is_chosen_and_the_models_own_is_saved(prior_flags, tmp_path, monkeypatch):
    drawn = []
    draw = sampling.draw

    def listening(pipeline, wanted, **settings):
        drawn.append((type(pipeline.scheduler).__name__, settings["steps"]))
        return draw(pipeline, wanted, **settings)

    monkeypatch.setattr(sampling, "draw", listening)
    train(prior_flags(tmp_path / "fast"))
    train(prior_flags(tmp_path / "own", prior_scheduler="own", prior_inference_steps=3))
    assert drawn == [("DPMSolverMultistepScheduler", 20), ("PNDMScheduler", 3)]
    assert contents(tmp_path / "fast") != contents(tmp_path / "own")
    assert "PNDMScheduler" in (tmp_path / "out of fast/scheduler/scheduler_config.json").read_text()


def test_more_steps_than_the_model_has_are_refused(prior_flags, tmp_path):
    with pytest.raises(BadInput, match="--prior_inference_steps 1001: the model has 1000"):
        train(prior_flags(tmp_path / "many", prior_inference_steps=1001))
