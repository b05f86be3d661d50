"""The study: its training runs, its figures and its table."""

import json

import pytest

from miniworld import photograph, study, world
from miniworld.things import Look


def test_settings_become_a_command_line():
    assert study.command_line({"seed": 3, "train_text_encoder": None}) == ["--seed", "3", "--train_text_encoder"]


def test_the_settings_are_those_of_run_single(capsys):
    from support.commands import ROOT

    script = (ROOT / "run_single.sh").read_text()
    training = study.TRAINING
    defaults = "{resolution} {train_batch_size} 4.5e-4 {max_train_steps}".format(**training)
    assert f"defaults=({defaults})" in script and training["learning_rate"] == 4.5e-4
    assert f"average={training['ema_decay']}\n" in script
    assert f"count={study.PRIOR['num_class_images']}\n" in script


def test_prompts_name_scenes_without_training_pictures():
    assert study.prompts("sks cat") == [f"a photo of sks cat {scene}" for scene in world.UNSEEN]
    assert not set(world.UNSEEN) & set(world.SEEN)


def test_mean_and_table_omit_unknown_figures():
    mean = study.mean_figures([{"CLIP-I": 0.5, "PRES": None}, {"CLIP-I": 0.75, "PRES": None}])
    assert mean == {"CLIP-I": 0.625, "PRES": None}
    table = study.table({"base": mean, "prior": {"CLIP-I": 0.1, "PRES": 0.2}}).splitlines()
    assert table == ["| | base | prior |", "|---|---|---|", "| CLIP-I | 0.62 | 0.10 |", "| PRES | – | 0.20 |"]


@pytest.mark.parametrize("settings", study.SETTINGS)
def test_each_setting_is_a_command_line_of_the_tool(settings, tmp_path, monkeypatch):
    import train_dreambooth
    from dreambooth.config.parser import read_config

    seen = []
    monkeypatch.setattr(train_dreambooth, "main", lambda argv: seen.append(read_config(argv, "")))
    result = study.train("cat", settings, 7, tmp_path)
    [config] = seen
    assert config.saving.output_dir == str(result) and config.run.seed == 7
    assert config.concepts.instance_prompt == "a photo of sks cat"
    assert config.concepts.with_prior_preservation == (settings != "plain")
    assert config.model.train_text_encoder == ("text encoder" in settings)
    name = "pictures of one scene" if settings in study.ONE_SCENE else "pictures"
    assert len(list((tmp_path / "cat" / name).iterdir())) == len(world.SEEN)
    assert config.has_masks == ("masks" in settings)


def test_an_existing_result_is_neither_trained_nor_measured_again(tmp_path, monkeypatch):
    import train_dreambooth

    monkeypatch.setattr(train_dreambooth, "main", lambda argv: pytest.fail("trained again"))
    result = tmp_path / "dog" / "plain-0"
    result.mkdir(parents=True)
    (result / "model_index.json").write_text("{}")
    (result / "figures.json").write_text(json.dumps({"CLIP-I": 0.5}))
    assert study.train("dog", "plain", 0, tmp_path) == result
    path = result / "figures.json"
    assert study.measure_once(None, result, "dog", path, False) == {"CLIP-I": 0.5}

    class Scenes:
        def share_of_training_scene(self, folder, subject):
            return 0.25

    both = {"CLIP-I": 0.5, study.UNASKED: 0.25}
    assert study.measure_once(Scenes(), result, "dog", path, True) == both == json.loads(path.read_text())


def test_a_subjects_own_pictures_have_high_figures():
    evaluator = study.Evaluator()
    for subject in world.SUBJECTS:
        real = evaluator.figures_of_photographs(subject)
        assert real["scene right"] >= 0.9 and real["subject shown"] >= 0.8
        assert 0 < real["DIV"] < 1 - real["CLIP-I"] + 1e-6
        pictures = [world.photograph(subject, scene, 0, 0) for scene in world.UNSEEN]
        assert evaluator.figures(subject, [[each] * 2 for each in pictures], pictures)["CLIP-I"] > 0.5


def test_a_picture_of_the_world_does_not_show_the_subject():
    evaluator = study.Evaluator()
    groups = [[world.picture(Look("dog", "brown"), scene, 0, n) for n in range(2)] for scene in world.UNSEEN]
    found = evaluator.figures("dog", groups, groups[0])
    assert found["subject shown"] == 0 and found["class shows subject"] == 0 and found["scene right"] >= 0.8
    assert found["CLIP-I"] < evaluator.figures_of_photographs("dog")["CLIP-I"] - 0.1


def test_measuring_pictures_are_no_training_pictures():
    evaluator = study.Evaluator()
    trained = [world.photograph("dog", scene, 0, 0).tobytes() for scene in world.SCENES]
    assert photograph.FIRST_MEASURED > 0
    assert all(picture.tobytes() not in trained for group in evaluator.photographs("dog") for picture in group)
