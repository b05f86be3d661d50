"""The study: its training runs, its figures and its table."""

import json
import time
from pathlib import Path

import pytest

from dreambooth.config.checks import doubts
from dreambooth.system.errors import BadInput, Stopped
from miniworld import study, world


def test_settings_become_a_command_line():
    assert study.command_line({"seed": 3, "train_text_encoder": None}) == ["--seed", "3", "--train_text_encoder"]
    assert study.command_line({"a": ["b c", "d"]}) == ["--a", "b c", "--a", "d"]


def test_the_settings_are_those_of_run_single(capsys):
    from support.commands import ROOT

    script = (ROOT / "run_single.sh").read_text()
    best = {**study.TRAINING, **study.BEST}
    defaults = "{resolution} {train_batch_size} 2e-4 {max_train_steps}".format(**best)
    assert f"defaults=({defaults})" in script and best["learning_rate"] == 2e-4
    assert "average={ema_decay}\n".format(**best) in script
    assert "recipe=(--timestep_shift {timestep_shift})\n".format(**best) in script
    assert "--train_text_encoder --text_encoder_lr 3e-5" in script and best["text_encoder_lr"] == 3e-5
    assert f"count={best['num_class_images']}\n" in script
    lora = {**study.TRAINING, **study.SETTINGS["LoRA"]}
    assert "defaults=(64 3 2e-3 {max_train_steps}) average={ema_decay} recipe=()".format(**lora) in script
    assert (lora["learning_rate"], lora["lora_targets"]) == (2e-3, "all") and "recipe+=(--lora_targets all)" in script


@pytest.mark.parametrize("settings", study.SETTINGS)
def test_each_setting_is_a_command_line_of_the_tool(settings, tmp_path, monkeypatch):
    from dreambooth.config.parser import read_config

    seen = []

    def run(settings):
        seen.append(read_config(study.command_line(settings), ""))
        logs = Path(seen[0].saving.output_dir) / "logs"
        logs.mkdir(parents=True)
        (logs / f"vdlrecords.{int(time.time()) - 60}.log").touch()
        (logs.parent / "training_args.json").touch()
        return 1.5

    monkeypatch.setattr(study, "run", run)
    result = study.train("cat", settings, 7, tmp_path)
    used = json.loads((result / "usage.json").read_text())
    assert used["GB"] == 1.5 and used["minutes"] == pytest.approx(1, abs=0.1)
    [config] = seen
    assert config.saving.output_dir == str(result) and config.run.seed == 7
    word = "<sks>" if "new word" in settings else "sks"
    assert config.concepts.instance_prompt == f"a photo of {word} cat"
    assert config.concepts.with_prior_preservation == ("with_prior_preservation" in study.SETTINGS[settings])
    assert config.concepts.keeps_class == (settings not in ("plain", "new word alone"))
    assert not list(doubts.warnings(config))
    assert config.model.train_text_encoder == ("text encoder" in settings or settings == "best")
    name = "pictures of one scene" if settings in study.ONE_SCENE else "pictures"
    assert len(list((tmp_path / "cat" / name).iterdir())) == len(world.SEEN)
    assert config.has_masks == ("masks" in settings)


def test_an_existing_result_is_neither_trained_nor_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "run", lambda settings: pytest.fail("trained again"))
    result = tmp_path / "dog" / "plain-0"
    result.mkdir(parents=True)
    (result / "training_args.json").write_text("{}")
    (result / "figures.json").write_text(json.dumps({"CLIP-I": 0.5}))
    assert study.train("dog", "plain", 0, tmp_path) == result
    path = result / "figures.json"
    assert study.measure_once(None, result, "dog", path, False) == {"CLIP-I": 0.5}

    class Scenes:
        def share_of_training_scene(self, folder, subject):
            return 0.25

    both = {"CLIP-I": 0.5, study.UNASKED: 0.25}
    assert study.measure_once(Scenes(), result, "dog", path, True) == both == json.loads(path.read_text())


def test_a_run_that_fails_ends_the_study(capfd):
    with pytest.raises(Stopped, match="the training failed"):
        study.run({"no_such_flag": None})
    assert "there is no such flag" in capfd.readouterr().err


@pytest.mark.parametrize("guidance", [None, 5.0])
def test_the_command_prints_the_table_and_draws_the_front(guidance, tmp_path, monkeypatch, capsys):
    base = {"CLIP-I": 0.5, "PRES": 0.3, "subject shown": 0.0}
    real = {"CLIP-I": 0.9, "PRES": 0.7, "subject shown": 1.0}

    class Judge:
        def __init__(self, guidance):
            assert guidance == (7.5 if suffix == "" else 5)

        def figures_of_photographs(self, subject):
            return real

    suffix = "" if guidance is None else "-5.0"
    figures = {"plain": {"CLIP-I": 0.7, "PRES": 0.5, "subject shown": 0.25}}

    def train(subject, settings, seed, folder):
        result = folder / subject / f"{settings}-{seed}"
        result.mkdir(parents=True)
        own = {name: value + 0.1 * seed for name, value in figures[settings].items()}
        (result / f"figures{suffix}.json").write_text(json.dumps(own))
        (result / "usage.json").write_text(json.dumps({"minutes": 2.0, "GB": 1.0}))
        return result

    monkeypatch.setattr(study, "Evaluator", Judge)
    monkeypatch.setattr(study, "train", train)
    for subject in ("dog", "cat"):
        (tmp_path / subject).mkdir()
        (tmp_path / subject / f"base{suffix}.json").write_text(json.dumps(base))
    line = ["--subjects", "dog", "cat", "--seeds", "0", "1", "--settings", "plain", "--folder", str(tmp_path)]
    study.main([*line, *(["--guidance_scale", str(guidance)] if guidance else [])])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| | share of the way | class drift | CLIP-I | PRES | subject shown | minutes | GB |"
    assert lines[2] == "| base | 0.00 | 0.00 | 0.50 | 0.30 | 0.00 | – | – |"
    row = "| plain | 0.62 ± 0.18 | 0.62 ± 0.18 | 0.75 ± 0.07 | 0.55 ± 0.07 | 0.30 ± 0.07 | 2.00 ± 0.00 | 1.00 ± 0.00 |"
    assert lines[3] == row and lines[4].startswith("| real pictures | 1.00 | 1.00 |")
    plot = tmp_path / f"front{suffix}.png"
    assert lines[5] == f"plot           {plot}" and plot.is_file()


@pytest.mark.parametrize("guidance", ["-1", "nan", "inf"])
def test_a_guidance_that_draws_nothing_is_refused(guidance, tmp_path):
    with pytest.raises(BadInput, match="--guidance_scale"):
        study.main(["--guidance_scale", guidance, "--folder", str(tmp_path)])
