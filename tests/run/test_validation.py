"""Validation pictures: when they are drawn, where they go, and that training does not notice them."""

import pytest
from PIL import Image
from support.commands import train
from support.weights import assert_same

from dreambooth.config.run_sections import LoggingSettings
from dreambooth.run.choosing.validation import Validation
from dreambooth.system import libraries


def test_they_are_due_every_so_many_steps():
    def due(**settings):
        validation = Validation(None, None, LoggingSettings(**settings), "out", None)
        return [step for step in range(1, 10) if validation.is_due(step)]

    assert due(validation_prompt=("a dog",), validation_steps=4) == [4, 8]
    assert due(validation_prompt=("a dog",)) == due() == []


@pytest.mark.parametrize("gradient_checkpointing", [None, True])
def test_pictures_go_to_the_folder_and_training_does_not_notice(flags, tmp_path, gradient_checkpointing):
    common = dict(max_train_steps=3, gradient_checkpointing=gradient_checkpointing, train_text_encoder=True)
    drawn = dict(validation_prompt=["a sks dog", "a dog"], validation_steps=2, num_validation_images=2)
    train(flags(output_dir=tmp_path / "with", **common, **drawn))
    train(flags(output_dir=tmp_path / "without", **common))
    for network in ("unet", "text_encoder"):
        assert_same(tmp_path / "with" / network, tmp_path / "without" / network)
    samples = sorted(path.name for path in (tmp_path / "with/samples").iterdir())
    assert samples == [f"step-{step}-{prompt}-{k}.png" for step in (2, 3) for prompt in (0, 1) for k in (0, 1)]
    assert Image.open(tmp_path / "with/samples" / samples[0]).size == (32, 32)
    assert "samples/step-3-1-1.png" in (tmp_path / "with/README.md").read_text()


def test_pictures_and_arguments_are_in_the_log(flags, tmp_path):
    from visualdl import LogReader

    train(flags(validation_prompt=["a sks dog"], num_validation_images=2, logging_steps=1))
    [file] = (tmp_path / "out/logs").glob("vdlrecords*")
    tags = LogReader(file_path=str(file)).get_tags()
    drawn = {"validation/0_a_sks_dog/0", "validation/0_a_sks_dog/1"}
    assert {name for name in tags["image"] if not name.startswith("subject/")} == drawn
    assert "subject/0" in tags["image"] and tags["text"] == ["arguments"] and tags["hyper_parameters"]
    named = {"loss", "instance_loss", "learning_rate", "pictures_per_second", "memory_gb"}
    assert set(tags["scalar"]) == {f"training/{name}" for name in named}


def test_the_gradients_norm_is_in_the_log_where_it_is_limited(flags, tmp_path):
    from visualdl import LogReader

    train(flags(max_grad_norm=1.0))
    [file] = (tmp_path / "out/logs").glob("vdlrecords*")
    assert all(each.value > 0 for each in LogReader(file_path=str(file)).get_data("scalar", "training/gradient_norm"))


def test_what_was_loaded_for_the_pictures_is_given_back(flags, monkeypatch):
    given_back = []
    monkeypatch.setattr(libraries, "release_memory", lambda: given_back.append(True))
    train(flags(max_train_steps=2, validation_prompt=["a sks dog"], validation_steps=1))
    assert len(given_back) >= 3  # after encoding, and after each drawing


def test_the_class_is_drawn_at_the_end_for_the_report(flags, tmp_path):
    classes = dict(with_prior_preservation=True, class_prompt="a dog", class_data_dir=tmp_path / "classes")
    drawn = dict(validation_prompt=["a sks dog"], validation_steps=1, num_validation_images=2)
    train(flags(max_train_steps=2, num_class_images=2, **classes, **drawn))
    samples = {path.name for path in (tmp_path / "out/samples").glob("class-*")}
    assert samples == {"class-step-2-0-0.png", "class-step-2-0-1.png"}
    with Image.open(tmp_path / "out/samples/class-step-2-0-1.png") as picture:
        assert picture.info == {"prompt": "a dog", "picture": "1", "seed": "0", "updates": "2"}
