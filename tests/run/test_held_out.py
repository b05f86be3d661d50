"""The held-out loss: the same at each call, whatever the training drew, and lower for a model that learned."""

import dataclasses

import pytest
from support.families import load_family
from support.settings import small_config

from dreambooth.data import picture_files
from dreambooth.data.concepts import Concept
from dreambooth.run.choosing import score
from dreambooth.run.choosing.held_out import HeldOut
from dreambooth.training.objective.diffusion import diffusion_for


@pytest.fixture
def held_out(twin, pictures, class_pictures):
    def make(with_class=False, batch=2, **objective):
        own, of_class = (tuple(picture_files.find_pictures(each, "")[0]) for each in (pictures, class_pictures))
        concept = Concept("a photo of sks dog", own)
        if with_class:
            concept = dataclasses.replace(concept, class_prompt="a photo of a dog", class_pictures=of_class)
        config = small_config(resolution=32, train_batch_size=batch, **objective)
        family = load_family(twin)
        diffusion = diffusion_for(family.pipeline.scheduler, config.objective)
        sections = config.optimizer, config.pictures, (config.pictures.size,), config.memory
        return family, HeldOut(family, diffusion, [concept], *sections)

    return make


def test_it_is_the_same_at_each_call_and_nearly_whatever_the_batch(held_out):
    _, two = held_out(batch=2)
    found = two.figures()
    assert found == two.figures() and set(found) == {score.SUBJECT_LOSS}
    _, three = held_out(batch=3)
    assert three.figures()[score.SUBJECT_LOSS] == pytest.approx(found[score.SUBJECT_LOSS], rel=0.2)


def test_the_accumulation_of_an_update_changes_nothing(held_out):
    assert held_out()[1].figures() == held_out(gradient_accumulation_steps=5)[1].figures()


def test_the_class_has_its_own(held_out):
    _, both = held_out(with_class=True)
    assert set(both.figures()) == {score.SUBJECT_LOSS, score.CLASS_LOSS}


def test_the_timesteps_go_evenly_over_those_that_are_trained_on(held_out, monkeypatch):
    family, one = held_out(batch=2, min_timestep=200, max_timestep=440)
    seen, predict = [], family.predict
    monkeypatch.setattr(family, "predict", lambda noisy, t, given: seen.extend(t.tolist()) or predict(noisy, t, given))
    one.figures()
    assert seen == [205 + 10 * number for number in range(24)]


def test_it_follows_the_weights(held_out):
    family, one = held_out()
    before = one.figures()
    for parameter in family.denoiser.parameters():
        parameter.set_value(parameter * 1.5)
    assert one.figures() != before
