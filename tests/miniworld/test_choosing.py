"""The study of the choice of a checkpoint: its runs, the replay of a run's patience, and its table."""

import json

import numpy as np
import pytest
from support.commands import command_line, train

from dreambooth.run.choosing import score
from dreambooth.system.errors import Stopped
from miniworld import choosing, study

VALIDATIONS = [
    {"step": step, "score": value}
    for step, value in ((0, 0.9), (50, 0.4), (100, 0.6), (150, 0.5), (200, 0.6), (250, 0.7))
]
VALIDATIONS_TO_THE_END = [
    {"step": step, "score": value}
    for step, value in zip(range(0, 601, 75), (0.9, 0.4, 0.6, 0.7, 0.65, 0.6, 0.9, 0.5, 0.5))
]


def test_a_run_has_validations_and_keeps_all_checkpoints(tmp_path, monkeypatch):
    from dreambooth.config.parser import read_config

    seen = []
    monkeypatch.setattr(study, "run", lambda settings: seen.append(read_config(study.command_line(settings), "")))
    result = choosing.train("cat", 5, tmp_path)
    [config] = seen
    assert config.saving.output_dir == str(result) and config.run.seed == 5
    assert config.optimizer.max_train_steps == choosing.STEPS > study.TRAINING["max_train_steps"]
    assert config.optimizer.ema_decay == study.TRAINING["ema_decay"]
    assert config.logging.validation_steps == config.saving.save_steps == choosing.EVERY
    assert config.saving.checkpoints_total_limit == 0 and config.choosing.keep_best
    assert len(config.logging.validation_prompt) == 3 and config.logging.num_validation_images == choosing.SHOWN
    assert all("sks cat" in prompt for prompt in config.logging.validation_prompt)
    result.mkdir(parents=True)
    (result / "training_args.json").write_text("{}")
    assert choosing.train("cat", 5, tmp_path) == result and len(seen) == 1


@pytest.mark.parametrize(("patience", "expected"), [(1, (100, 150)), (2, (100, 200)), (3, (250, 250)), (9, (250, 250))])
def test_patience_is_replayed(patience, expected):
    assert choosing.choose(VALIDATIONS, patience) == expected


def test_a_run_with_patience_chooses_what_its_replay_does(twin, pictures, tmp_path, monkeypatch):
    settings, records = dict(keep_best=True, validation_steps=1, max_train_steps=7), []
    for name, more in (("whole", {}), ("short", {"patience": 2})):
        values = iter([0, 1, 3, 2, 3, 4, 5, 6])
        monkeypatch.setattr(score, "of_losses", lambda found, weight: next(values))  # noqa: B023
        train(command_line(twin, pictures, tmp_path / name, **settings, **more))
        records.append(json.loads((tmp_path / name / "training_args.json").read_text()))
    whole, short = records
    chosen, end = choosing.choose(whole["validations"], 2)
    assert short["validations"] == whole["validations"][: end + 1]
    assert short["saved_step"] == chosen == 2 and short["steps"] == end == 4


def test_a_choice_is_compared_with_the_best_in_hindsight():
    scores = {50: 0.5, 100: 0.7, 150: 0.75, 200: 0.6, 250: 0.65}
    assert choosing.compare(VALIDATIONS, [scores] * 2) == choosing.Choice(100, 150, 150, pytest.approx(0.05))
    # a half's lucky score names the best, and is not that half's own measure of it
    lucky = {**scores, 50: 0.9}
    assert choosing.compare(VALIDATIONS, [scores, lucky]) == choosing.Choice(100, 150, 150, pytest.approx(-0.075))


def test_halves_of_nothing_but_noise_lose_nothing_on_average():
    steps, rounds = range(75, 601, 75), np.random.default_rng(0).normal(0.8, 0.02, (400, 2, 8))
    lost = [
        choosing.compare(VALIDATIONS_TO_THE_END, [dict(zip(steps, half)) for half in halves]).lost for halves in rounds
    ]
    assert abs(np.mean(lost)) < 3 * 0.02 / 400**0.5


def test_the_score_counts_the_class_by_the_detector():
    base, real = {"CLIP-I": 0.5, "CLIP-T": 0.4, "class shows subject": 0.0}, {"CLIP-I": 0.9}
    found = {"CLIP-I": 0.8, "CLIP-T": 0.4, "class shows subject": 0.5}
    assert choosing.score_of(found, base, real) == pytest.approx((0.75 * 1 * 0.5) ** (1 / 3))
    assert choosing.score_of({**found, "class shows subject": None}, base, real) == pytest.approx(0.75**0.5)


def test_each_checkpoint_is_measured_once_and_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "STEPS", 150)
    measured = []

    class Judge:
        def measure(self, folder, subject):
            measured.append(folder.name)
            assert folder.is_dir()
            if len(measured) == 4:
                raise Stopped("by hand", code=130)
            return {"CLIP-I": 0.5}

    for step in (75, 150):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(Stopped):
        choosing.measure([Judge(), Judge()], "dog", tmp_path)
    assert not (tmp_path / "checkpoint-75").exists() and (tmp_path / "checkpoint-150").exists()
    half = {75: {"CLIP-I": 0.5}, 150: {"CLIP-I": 0.5}}
    assert choosing.measure([Judge(), Judge()], "dog", tmp_path) == [half, half]
    assert measured == ["checkpoint-75"] * 2 + ["checkpoint-150"] * 3
    assert not (tmp_path / "checkpoint-150").exists()


def test_the_command_prints_the_choices(tmp_path, monkeypatch, capsys):
    class Judge:
        def __init__(self, first, count):
            assert (first, count) in ((12, 8), (20, 8))  # validations have the pictures 0 to 11

        def figures_of_photographs(self, subject):
            return {"CLIP-I": 0.9}

        def measure(self, folder, subject):
            assert folder == choosing.paths.MODEL
            return {"CLIP-I": 0.5, "CLIP-T": 0.4, "class shows subject": 0.0}

    def train(subject, seed, folder):
        result = folder / subject / str(seed)
        result.mkdir()
        (result / "training_args.json").write_text(json.dumps({"validations": VALIDATIONS_TO_THE_END}))
        for step in range(75, 601, 75):
            fidelity = 0.8 if step == 225 else 0.7 if (step, seed) != (450, 1) else 0.9
            figures = {"CLIP-I": fidelity, "CLIP-T": 0.4, "class shows subject": 0.0}
            for half in range(2):
                (result / f"figures-{step}-{half}.json").write_text(json.dumps(figures))
        return result

    monkeypatch.setattr(choosing.evaluator, "Evaluator", Judge)
    monkeypatch.setattr(choosing, "train", train)
    choosing.main(["--subjects", "dog", "--seeds", "0", "1", "--folder", str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == [
        "| run | chosen | best | score lost | end |",
        "|---|---|---|---|---|",
        "| dog, seed 0 | 225 | 225 | 0.000 | 300 |",
        "| dog, seed 1 | 225 | 450 | 0.091 | 300 |",
        "",
        "1 of 2 choices are within 0.02 of the best; 50% of the updates are saved",
    ]
