"""The study of the second stage: its runs, its pictures, and its figures."""

import json

import numpy as np
import pytest
from PIL import Image

from miniworld import paths, photograph, second_stage, study, world


@pytest.fixture(scope="module")
def detector():
    from miniworld.detector import Detector

    return Detector.load()


def test_a_run_teaches_the_upscaler_by_the_subjects_pictures(tmp_path, monkeypatch):
    from dreambooth.config.parser import read_config

    seen = []
    monkeypatch.setattr(study, "run", lambda settings: seen.append(read_config(study.command_line(settings), "")))
    result = second_stage.train("cat", 3, tmp_path)
    [config] = seen
    assert config.model.pretrained_model_name_or_path == str(paths.UPSCALER)
    assert config.saving.output_dir == str(result) and config.run.seed == 3
    assert config.concepts.instance_prompt == "a photo of sks cat" and config.pictures.size == (96, 96)
    assert len(list((tmp_path / "cat/pictures-96").iterdir())) == len(world.SEEN)
    result.mkdir(parents=True)
    (result / "model_index.json").write_text("{}")
    assert second_stage.train("cat", 3, tmp_path) == result and len(seen) == 1


def test_pictures_that_a_stop_has_left_out_are_written_by_the_next_run(tmp_path):
    pictures = tmp_path / "dog/pictures-96"
    second_stage.flags("dog", 0, tmp_path / "dog/upscaler-96-0")
    [one, *_] = pictures.iterdir()
    one.unlink()
    second_stage.flags("dog", 1, tmp_path / "dog/upscaler-96-1")
    assert len(list(pictures.iterdir())) == len(world.SEEN)


def test_the_measured_pictures_are_none_of_training():
    pictures, requests = second_stage.draw_subject("dog")
    prompts = [prompt for prompt, _ in requests]
    assert len(pictures) == len(prompts) == second_stage.COUNT * len(world.UNSEEN)
    assert not any(scene in prompt for prompt in prompts for scene in world.SEEN)
    assert prompts[0] == f"a photo of sks dog {world.UNSEEN[0]}"
    own = world.photograph("dog", world.UNSEEN[0], 0, photograph.FIRST_MEASURED, second_stage.LARGE)
    assert np.array_equal(np.asarray(pictures[0]), np.asarray(own))
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert {picture.size for picture in second_stage.reduce(pictures)} == {(24, 24)}


def test_original_pictures_have_most_marks_and_hats_and_plain_things_few(detector):
    pictures, _ = second_stage.draw_subject("cat")
    plain, requests = second_stage.draw_plain_things("cat")
    assert len({picture.tobytes() for picture in plain}) == len(plain) == len(pictures)
    found = second_stage.measure(detector, "cat", pictures, plain)
    assert found["mark right"] > 0.7 and found["hat right"] > 0.9 and found["class gets a mark or a hat"] < 0.3
    assert found["sharpness"] == 1
    assert all(prompt.startswith("a photo of a cat ") for prompt, _ in requests)
    other = second_stage.measure(detector, "dog", pictures, pictures)
    assert other["mark right"] < 0.1 and other["hat right"] < 0.1 and other["class gets a mark or a hat"] > 0.9


def test_a_mark_or_a_hat_counts_with_its_colours_alone(monkeypatch):
    class Named:
        def name_parts(self, pictures):
            return pictures

        def has_all_parts_right(self, pictures, looks):
            return [False] * len(pictures)

    monkeypatch.setattr(second_stage, "measure_edges", lambda pictures: 1.0)
    look = world.SUBJECTS["dog"]
    right = {
        "mark": look.mark[1], "mark colour": look.mark[0], "hat": "hat", "hat colour": look.hat[0],
        "second hat colour": look.hat[1],
    }  # fmt: skip
    bare = {**right, "mark": None, "hat": None}
    found = second_stage.measure(Named(), "dog", [right, {**right, "mark colour": "pink"}, bare, bare], [bare, right])
    assert found["mark right"] == 0.25 and found["hat right"] == 0.5 and found["class gets a mark or a hat"] == 0.5


def test_a_filter_enlarges_without_a_model():
    [large] = second_stage.enlarge(None, [Image.new("RGB", (24, 24), "purple")], [("a photo of a dog", 0)])
    assert large.size == (96, 96) and large.getpixel((30, 30)) == Image.new("RGB", (1, 1), "purple").getpixel((0, 0))


def test_a_filter_adds_no_edges(detector):
    pictures, requests = second_stage.draw_subject("dog")
    plain, _ = second_stage.draw_plain_things("dog")
    blurred = second_stage.enlarge(None, second_stage.reduce(pictures), requests)
    assert second_stage.measure(detector, "dog", blurred, plain)["sharpness"] < 0.6
    flat = [Image.new("RGB", (9, 9), "red")]
    assert second_stage.measure_edges(flat) == 0
    step = Image.fromarray(np.repeat([[0, 0, 8, 8]], 4, axis=0).astype("uint8"))
    assert second_stage.measure_edges([step]) == pytest.approx((8 + 0) / 2)


def test_figures_are_measured_once_for_each_choice_of_pictures(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(second_stage, "COUNT", 2)
    found = second_stage.measure_once(detector, None, "car", tmp_path)
    [path] = tmp_path.iterdir()
    assert json.loads(path.read_text()) == found and 0 <= found["mark right"] < 1
    monkeypatch.setattr(second_stage, "enlarge", None)
    assert second_stage.measure_once(detector, None, "car", tmp_path) == found
    monkeypatch.setattr(second_stage, "COUNT", 3)
    with pytest.raises(TypeError):
        second_stage.measure_once(detector, None, "car", tmp_path)


def test_the_sheet_shows_the_measured_pictures(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(second_stage, "COUNT", 2)
    monkeypatch.setattr(second_stage, "SHOWN", 1)
    monkeypatch.setattr(second_stage, "enlarge", lambda model, small, requests: shown.append(requests) or small)
    second_stage.draw_sheet("dog", tmp_path)
    _, requests = second_stage.draw_subject("dog")
    assert shown == [requests[::2]] * 2


@pytest.fixture(scope="module")
def few():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(second_stage, "COUNT", 1)
        patch.setattr(second_stage, "SHOWN", 1)
        patch.setattr(second_stage.judge, "STEPS", 2)
        patch.setitem(second_stage.TRAINING, "max_train_steps", 2)
        yield


def test_the_study_of_one_run_ends_with_a_table_and_a_sheet(few, tmp_path, capfd, monkeypatch):
    folder = tmp_path / "second-stage"
    line = ["--subjects", "dog", "--seeds", "5", "--folder", str(folder)]
    second_stage.main(line)
    printed = capfd.readouterr().out
    table = [line for line in printed.splitlines() if line.startswith("| dog: ") or line.startswith("| all: ")]
    assert [line.split("|")[1].strip() for line in table] == [
        f"{whose}: {row}"
        for whose in ("dog", "all")
        for row in ("a filter", "the embedded upscaler", "taught", "the original pictures")
    ]
    assert all(float(value) >= 0 for line in table for value in line.split("|")[2:-1])
    with Image.open(folder / "dog/sheet.png") as sheet:
        assert sheet.width > 4 * 96 and sheet.height > 3 * 96
    monkeypatch.setattr(study, "run", None)
    monkeypatch.setattr(second_stage, "enlarge", None)
    second_stage.main(line)
    again = capfd.readouterr().out
    assert [line for line in again.splitlines() if line.startswith("| ")][-len(table) :] == table


@pytest.mark.slow
def test_an_upscaler_that_has_learned_the_subject_has_its_details_right_more_often(detector, tmp_path):
    taught = second_stage.train("cat", 0, tmp_path)
    base = second_stage.measure_once(detector, paths.UPSCALER, "cat", tmp_path / "embedded")
    after = second_stage.measure_once(detector, taught, "cat", taught)
    assert after["hat right"] > base["hat right"] + 0.1
    assert after["all parts right"] > base["all parts right"] + 0.2
    assert after["class gets a mark or a hat"] < base["class gets a mark or a hat"] - 0.2
