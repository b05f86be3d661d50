"""The table of schedulers: the flags' names, the library's classes, and the noise schedule that stays the model's."""

from types import SimpleNamespace
from typing import get_args

import pytest
from support.families import load_family

from dreambooth.config.run_sections import SchedulerName, Solver
from dreambooth.models import registry, schedulers

each_scheduler = pytest.mark.parametrize("name", schedulers.SCHEDULERS)


@pytest.fixture(scope="module")
def family(twin):
    return load_family(twin)


@each_scheduler
def test_the_noise_schedule_stays_the_models_own(name):
    from ppdiffusers import DDIMScheduler

    own = DDIMScheduler(beta_end=0.011, beta_schedule="scaled_linear", prediction_type="v_prediction")
    pipeline = SimpleNamespace(scheduler=own)
    schedulers.set_scheduler(pipeline, name)
    assert type(pipeline.scheduler).__name__ == schedulers.SCHEDULERS[name].class_name
    settings = pipeline.scheduler.config
    assert (settings.beta_end, settings.beta_schedule, settings.prediction_type) == (
        0.011,
        "scaled_linear",
        "v_prediction",
    )


@each_scheduler
def test_latents_are_not_clipped_as_pixels_would_be(family, name):
    """DDIM and DDPM clip to [-1, 1] where their settings do not say otherwise; latents go further than that."""
    pipeline = SimpleNamespace(scheduler=family.pipeline.scheduler)
    assert "clip_sample" not in pipeline.scheduler.config
    schedulers.set_scheduler(pipeline, name)
    assert not pipeline.scheduler.config.get("clip_sample")


def test_the_names_of_the_flag_are_the_schedulers_there_are():
    assert get_args(SchedulerName) == tuple(schedulers.SCHEDULERS)
    assert get_args(Solver) == ("own", *schedulers.SCHEDULERS)


def test_the_classes_of_the_table_are_those_that_a_model_may_have():
    import ppdiffusers

    for facts in registry.FAMILIES.values():
        assert facts.parts["scheduler"] == ((schedulers.FLOW,) if facts.flows else schedulers.CLASSES)
    assert all(hasattr(ppdiffusers, name) for name in schedulers.CLASSES) and len(set(schedulers.CLASSES)) == 7
    assert hasattr(ppdiffusers, schedulers.FLOW)


@each_scheduler
def test_the_table_says_which_schedulers_scale_their_input_and_draw_noise(name, family):
    import paddle

    pipeline = SimpleNamespace(scheduler=family.pipeline.scheduler)
    schedulers.set_scheduler(pipeline, name)
    facts, scheduler = schedulers.SCHEDULERS[name], pipeline.scheduler
    scheduler.set_timesteps(5)
    sample, step = paddle.ones([1, 4, 2, 2]), scheduler.timesteps[0]
    scaled = scheduler.scale_model_input(sample, step)
    assert facts.scales_input == bool((scaled != sample).any())
    assert schedulers.is_stochastic(scheduler) == facts.stochastic
    drawn = []
    for seed in (1, 2):
        paddle.seed(seed)
        scheduler.set_timesteps(5)
        drawn.append(scheduler.step(sample, scheduler.timesteps[0], sample).prev_sample)
    assert facts.stochastic == bool((drawn[0] != drawn[1]).any())


def test_a_noise_schedule_that_ends_in_noise_alone_is_saved_without_bounds_for_latents():
    from ppdiffusers import DDIMScheduler

    from dreambooth.models import schedulers

    own = DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", clip_sample=False)
    saved = schedulers.as_saved(own, {"beta_start": 0.001, "beta_end": 0.01, "prediction_type": "v_prediction"})
    config = saved.config
    assert (config.rescale_betas_zero_snr, config.timestep_spacing, config.clip_sample) == (True, "trailing", False)
    assert config.beta_start == 0.001 and float(saved.alphas_cumprod[-1]) == 0
    plain = schedulers.as_saved(DDIMScheduler(), {"beta_start": 0.001})
    assert not schedulers.has_zero_snr(plain)


def test_solvers_that_divide_by_the_signal_have_a_little_of_it_at_the_end():
    from types import SimpleNamespace

    import numpy as np
    from ppdiffusers import DDIMScheduler

    from dreambooth.models import schedulers

    pipeline = SimpleNamespace(scheduler=DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"))
    schedulers.set_zero_snr(pipeline)
    exact = np.asarray(pipeline.scheduler.alphas_cumprod, np.float64)
    schedulers.set_scheduler(pipeline, "dpmsolver++")
    kept = np.asarray(pipeline.scheduler.alphas_cumprod, np.float64)
    np.testing.assert_allclose(kept[:-1], exact[:-1], rtol=1e-3, atol=1e-7)
    assert 0 < kept[-1] < 1e-6 and pipeline.scheduler.config.timestep_spacing == "trailing"
