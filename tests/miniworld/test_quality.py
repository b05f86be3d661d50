"""DreamBooth on the embedded model: it learns the subject, follows the prompt and keeps the class.

Runs with a fault fail these criteria.
"""

from pathlib import Path

import pytest
from support.families import load_family

from dreambooth.data.batches import Batches
from dreambooth.drawing import measures
from dreambooth.models.families.stable_diffusion import StableDiffusion
from dreambooth.training.objective import loss
from dreambooth.training.objective.diffusion import Discrete
from miniworld import paths, study, tables
from miniworld.evaluator import Evaluator

pytestmark = pytest.mark.slow

SUBJECTS = ("dog", "cat", "car")
SEEDS = (0, 1, 2)
PLAIN, PRIOR, TEXT = study.USUAL


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    given = request.config.getoption("--study")
    return Path(given) if given else tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def figures(evaluator, folder):
    """Return the figures of a setting, mean over subjects and seeds; each run trains once."""

    def of(settings, subjects=SUBJECTS, seeds=SEEDS):
        rows = []
        for subject in subjects:
            if settings in ("base", "real"):
                place = folder / subject / "base.json"
                row = evaluator.figures_of_photographs(subject) if settings == "real" else None
                rows.append(row or study.measure_once(evaluator, paths.MODEL, subject, place))
                continue
            for seed in seeds:
                result = study.train(subject, settings, seed, folder)
                rows.append(study.measure_once(evaluator, result, subject, result / "figures.json"))
        return tables.mean_figures(rows)

    return of


def subject_is_learned(after, before, real):
    """Compare with the real pictures, of which "subject shown" finds the subject in 0.92."""
    gained = measures.share_gained(*(figures["CLIP-I"] for figures in (before, after, real)))
    return gained >= 0.7 and after["subject shown"] >= 0.3


def class_is_kept(prior, plain, before):
    return prior["PRES"] - before["PRES"] <= 0.5 * (plain["PRES"] - before["PRES"])


def test_the_base_shows_no_subject(figures):
    before = figures("base")
    assert before["subject shown"] == 0 and before["class shows subject"] == 0
    assert before["scene right"] >= 0.9


@pytest.mark.parametrize("settings", study.USUAL)
def test_the_subject_is_learned(figures, settings):
    assert subject_is_learned(figures(settings), figures("base"), figures("real"))


def test_the_prompt_is_followed_with_prior_preservation(figures):
    assert figures(PRIOR)["scene right"] >= 0.9


def test_the_class_is_kept_with_prior_preservation(figures):
    assert class_is_kept(figures(PRIOR), figures(PLAIN), figures("base"))
    assert figures(PRIOR)["DIV"] > figures(PLAIN)["DIV"]


def test_the_text_encoder_does_not_lower_fidelity(figures):
    assert figures(TEXT)["CLIP-I"] >= figures(PRIOR)["CLIP-I"] - 0.01


@pytest.mark.parametrize("settings", ["adafactor", "adamw8bit", "one scene", "one scene, masks"])
def test_a_lean_optimizer_teaches_as_well_as_adamw(figures, settings):
    before, real = figures("base", ("dog",)), figures("real", ("dog",))
    gained = [
        measures.share_gained(*(each["CLIP-I"] for each in (before, figures(name, ("dog",)), real)))
        for name in (PRIOR, settings)
    ]
    assert gained[1] >= gained[0] - 0.03


# one run of the dog with each fault, and the sound run of the same seed


@pytest.fixture
def faulty(evaluator, tmp_path, monkeypatch):
    import train_dreambooth

    # in this process, which has the fault
    monkeypatch.setattr(study, "_run", lambda line: train_dreambooth.main(line) or 0.0)

    def figures_of(settings):
        return evaluator.measure(study.train("dog", settings, 0, tmp_path), "dog")

    return figures_of


@pytest.fixture
def sound(figures):
    return lambda settings: figures(settings, subjects=("dog",), seeds=(0,))


def test_the_sound_run_passes_what_the_faulty_ones_fail(sound):
    assert subject_is_learned(sound(PRIOR), sound("base"), sound("real"))
    assert class_is_kept(sound(PRIOR), sound(PLAIN), sound("base"))


def test_a_broken_loss_is_noticed(faulty, sound, monkeypatch):
    monkeypatch.setattr(Discrete, "target", lambda self, clean, noise, t: clean)
    assert not subject_is_learned(faulty(PLAIN), sound("base"), sound("real"))


def test_a_prior_with_the_subjects_prompt_is_noticed(faulty, sound, monkeypatch):
    add = Batches.add
    monkeypatch.setattr(Batches, "add", lambda self, pictures, _: add(self, pictures, "a photo of sks dog"))
    found = faulty(PRIOR)
    assert not subject_is_learned(found, sound("base"), sound("real"))


def test_a_prior_without_weight_is_noticed(faulty, sound, monkeypatch):
    whole = loss.dreambooth_loss
    monkeypatch.setattr(loss, "dreambooth_loss", lambda errors, batch, weight, _: whole(errors, batch, weight, 0.0))
    assert not class_is_kept(faulty(PRIOR), sound(PLAIN), sound("base"))


def test_swapped_prompts_are_noticed(faulty, sound, monkeypatch):
    other = {"a photo of sks dog": "a photo of a dog", "a photo of a dog": "a photo of sks dog"}
    add = Batches.add
    monkeypatch.setattr(Batches, "add", lambda self, pictures, prompt: add(self, pictures, other[prompt]))
    found = faulty(PRIOR)
    assert not subject_is_learned(found, sound("base"), sound("real"))
    assert not class_is_kept(found, sound(PLAIN), sound("base"))


def contribution_of_text_encoder(evaluator, result):
    """Return the loss in CLIP-I when the base's text encoder replaces the trained one."""
    trained = load_family(result)
    trained.pipeline.text_encoder = load_family(paths.MODEL).pipeline.text_encoder
    without = evaluator.figures("dog", *evaluator.draw(trained, "dog"))
    return evaluator.measure(result, "dog")["CLIP-I"] - without["CLIP-I"]


def test_an_untrained_text_encoder_is_noticed(evaluator, folder, tmp_path, monkeypatch):
    assert contribution_of_text_encoder(evaluator, study.train("dog", TEXT, 0, folder)) > 0.005
    monkeypatch.setattr(StableDiffusion, "trained", lambda self: {"unet": self.denoiser})
    assert contribution_of_text_encoder(evaluator, study.train("dog", TEXT, 0, tmp_path)) == 0
