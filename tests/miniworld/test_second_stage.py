"""The study of the second stage: its runs, its pictures, and its figures."""

import json

import numpy as np
import pytest
from PIL import Image

from miniworld import paths, photograph, second_stage, study, world


@pytest.fixture(scope="module")
def judges():
    return second_stage.Judge()


def test_a_run_teaches_the_upscaler_by_the_subjects_pictures(tmp_path, monkeypatch):
    from dreambooth.config.parser import read_config

    seen = []
    monkeypatch.setattr(study, "run", lambda settings: seen.append(read_config(study.command_line(settings), "")))
    result = second_stage.train("cat", 3, tmp_path)
    [config] = seen
    assert config.model.pretrained_model_name_or_path == str(paths.UPSCALER)
    assert config.saving.output_dir == str(result) and config.run.seed == 3
    assert config.concepts.instance_prompt == "a photo of sks cat" and config.pictures.size == (96, 96)
    assert len(list((tmp_path / "cat/pictures").iterdir())) == len(world.SEEN)
    result.mkdir(parents=True)
    (result / "model_index.json").write_text("{}")
    assert second_stage.train("cat", 3, tmp_path) == result and len(seen) == 1


def test_the_measured_pictures_are_none_of_training():
    pictures, prompts = second_stage.subjects_pictures("dog")
    assert len(pictures) == len(prompts) == second_stage.COUNT * len(world.UNSEEN)
    assert not any(scene in prompt for prompt in prompts for scene in world.SEEN)
    assert prompts[0] == f"a photo of sks dog {world.UNSEEN[0]}"
    own = world.photograph("dog", world.UNSEEN[0], 0, photograph.FIRST_MEASURED, second_stage.LARGE)
    assert np.array_equal(np.asarray(pictures[0]), np.asarray(own))
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert {picture.size for picture in second_stage.reduce(pictures)} == {(24, 24)}


def test_own_pictures_have_most_marks_and_hats_and_plain_things_none(judges):
    pictures, _ = second_stage.subjects_pictures("cat")
    plain, prompts = second_stage.plain_pictures("cat")
    found = judges.figures("cat", pictures, plain)
    assert found["mark right"] > 0.7 and found["hat right"] > 0.9 and found["class gets a mark or a hat"] < 0.25
    assert found["likeness"] == pytest.approx(1, abs=1e-5) and found["sharpness"] == 1
    assert all(prompt.startswith("a photo of a cat ") for prompt in prompts)
    other = judges.figures("dog", pictures, pictures)
    assert other["mark right"] < 0.1 and other["hat right"] < 0.1 and other["class gets a mark or a hat"] > 0.9
    assert other["likeness"] < 0.95


def test_a_mark_or_a_hat_counts_with_its_colours_alone():
    class Named:
        def name_parts(self, pictures):
            return pictures

        def has_all_parts_right(self, pictures, looks):
            return [False] * len(pictures)

    look = world.SUBJECTS["dog"]
    right = {
        "mark": look.mark[1], "mark colour": look.mark[0], "hat": "hat", "hat colour": look.hat[0],
        "second hat colour": look.hat[1],
    }  # fmt: skip
    bare = {**right, "mark": None, "hat": None}
    found = second_stage.parts_right(
        Named(), look, [right, {**right, "mark colour": "pink"}, bare, bare], [bare, right]
    )
    assert found["mark right"] == 0.25 and found["hat right"] == 0.5 and found["class gets a mark or a hat"] == 0.5


def test_a_filter_enlarges_without_a_model():
    [large] = second_stage.enlarge(None, [Image.new("RGB", (24, 24), "purple")], ["a photo of a dog"])
    assert large.size == (96, 96) and large.getpixel((30, 30)) == Image.new("RGB", (1, 1), "purple").getpixel((0, 0))


def test_a_filter_adds_no_edges(judges):
    pictures, prompts = second_stage.subjects_pictures("dog")
    plain, _ = second_stage.plain_pictures("dog")
    blurred = second_stage.enlarge(None, second_stage.reduce(pictures), prompts)
    assert judges.figures("dog", blurred, plain)["sharpness"] < 0.6
    flat = [Image.new("RGB", (9, 9), "red")]
    assert second_stage.edges(flat) == 0
    step = Image.fromarray(np.repeat([[0, 0, 8, 8]], 4, axis=0).astype("uint8"))
    assert second_stage.edges([step]) == pytest.approx((8 + 0) / 2)


def test_figures_are_measured_once(judges, tmp_path, monkeypatch):
    path = tmp_path / "figures.json"
    found = second_stage.measure_once(judges, None, "car", path)
    assert json.loads(path.read_text()) == found and 0 <= found["mark right"] < 1
    monkeypatch.setattr(second_stage, "enlarge", None)
    assert second_stage.measure_once(judges, None, "car", path) == found


@pytest.fixture(scope="module")
def few():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(second_stage, "COUNT", 1)
        patch.setattr(second_stage, "SHOWN", 1)
        patch.setattr(second_stage.judge, "STEPS", 2)
        patch.setitem(second_stage.TRAINING, "max_train_steps", 2)
        yield


def test_the_study_of_one_run_ends_with_a_table_and_a_sheet(few, tmp_path, capfd):
    folder = tmp_path / "second-stage"
    line = ["--subjects", "dog", "--seeds", "5", "--folder", str(folder)]
    second_stage.main(line)
    printed = capfd.readouterr().out
    for row in ("a filter", "the embedded upscaler", "taught", "the subject's own pictures"):
        assert f"| {row} | 0." in printed or f"| {row} | 1." in printed
    assert (folder / "dog/upscaler-5/figures.json").exists() and "Training" not in printed
    with Image.open(folder / "dog/sheet.png") as sheet:
        assert sheet.width > 4 * 96 and sheet.height > 3 * 96
    second_stage.main(line)
    assert printed.endswith(capfd.readouterr().out)


@pytest.mark.slow
def test_an_upscaler_that_has_learned_the_subject_has_its_details_right_more_often(judges, tmp_path):
    taught = second_stage.train("dog", 0, tmp_path)
    base, after = (
        second_stage.measure_once(judges, model, "dog", tmp_path / f"{name}.json")
        for name, model in (("base", paths.UPSCALER), ("after", taught))
    )
    assert after["mark right"] > base["mark right"] + 0.1 and after["all parts right"] > base["all parts right"] + 0.1
