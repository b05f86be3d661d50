"""The diffusion process: its random numbers, and its noise and targets against closed formulas."""

import numpy as np
import paddle
import pytest
from ppdiffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from dreambooth.config.learning_sections import ObjectiveSettings
from dreambooth.data import randomness
from dreambooth.system.errors import BadInput
from dreambooth.training.objective import diffusion
from dreambooth.training.objective.diffusion import Diffusion, Discrete

KEYS = [(0, 0, 0), (0, 1, 0), (0, 0, 1)]
T = [0, 500, 999]
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
KEPT = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[T][:, None, None, None]  # alpha bar


def process(kind=DDPMScheduler, objective=None, **settings):
    return diffusion.diffusion_for(kind(**{**BETAS, **settings}), ObjectiveSettings(**(objective or {})))


def clean_and_noise():
    numbers = np.random.default_rng(0)
    return numbers.standard_normal((3, 4, 2, 2), np.float32), numbers.standard_normal((3, 4, 2, 2), np.float32)


def test_noise_and_timesteps_are_those_of_the_seed_the_purpose_and_the_key():
    noise, t = process().noise(7, KEYS, [4, 2, 2]), process().sample_t(7, KEYS)
    assert np.array_equal(noise.numpy(), randomness.normal(7, "noise", KEYS, (4, 2, 2)))
    assert np.array_equal(t.numpy(), randomness.integers(7, "timestep", KEYS, 1000)) and t.dtype == paddle.int64
    assert np.array_equal(process().noise(7, KEYS[1:2], [4, 2, 2])[0].numpy(), noise[1].numpy())
    assert process(num_train_timesteps=10).sample_t(7, [(n,) for n in range(99)]).max() == 9


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
def test_noise_is_mixed_in_as_the_models_betas_say_whatever_draws_with_it(kind):
    clean, noise = clean_and_noise()
    noisy = process(kind).add_noise(*map(paddle.to_tensor, (clean, noise, T)))
    np.testing.assert_allclose(noisy.numpy(), KEPT**0.5 * clean + (1 - KEPT) ** 0.5 * noise, atol=1e-6)


def test_the_noise_is_the_target_of_an_epsilon_model():
    clean, noise = map(paddle.to_tensor, clean_and_noise())
    target = process(prediction_type="epsilon").target(clean, noise, paddle.to_tensor(T))
    assert np.array_equal(target.numpy(), noise.numpy())


def test_the_velocity_is_the_target_of_a_v_prediction_model():
    clean, noise = clean_and_noise()
    target = process(prediction_type="v_prediction").target(*map(paddle.to_tensor, (clean, noise, T)))
    np.testing.assert_allclose(target.numpy(), KEPT**0.5 * noise - (1 - KEPT) ** 0.5 * clean, atol=1e-6)


def test_all_examples_count_alike():
    assert process().weight(paddle.to_tensor(T)) is None


def test_the_scheduler_decides_on_the_process_and_what_it_can_not_train_is_refused():
    assert isinstance(process(), Discrete)
    with pytest.raises(BadInput, match="prediction_type is 'sample'"):
        process(prediction_type="sample")


MANY = [(0, number, 0) for number in range(4000)]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_those_of_the_paper(kind):
    """Hang et al. 2023, section 3.4; the ratios are those that torch's diffusers has for these betas."""
    weight = process(objective=dict(snr_gamma=5.0), prediction_type=kind).weight(paddle.to_tensor(T)).numpy()
    ratio = np.array([1175.4, 0.38185, 0.0046819])
    expected = np.minimum(ratio, 5) / (ratio if kind == "epsilon" else ratio + 1)
    np.testing.assert_allclose(weight, expected, rtol=1e-4)


def test_a_noise_offset_is_the_same_at_all_places_of_a_channel_and_part_of_the_target():
    plain, shifted = process(), process(objective=dict(noise_offset=0.5))
    added = (shifted.noise(7, MANY[:500], [4, 2, 2]) - plain.noise(7, MANY[:500], [4, 2, 2])).numpy()
    assert np.allclose(added, added[:, :, :1, :1], atol=1e-6) and abs(added.std() - 0.5) < 0.03
    assert np.abs(added[:, 0] - added[:, 1]).max() > 0.1
    noise = shifted.noise(7, KEYS, [4, 2, 2])
    assert np.array_equal(shifted.target(noise, noise, paddle.to_tensor(T)).numpy(), noise.numpy())
    assert np.array_equal(shifted.noise(7, KEYS[1:2], [4, 2, 2])[0].numpy(), noise[1].numpy())
    with pytest.raises(BadInput, match="--noise_offset: the latents of this model have no channels"):
        diffusion.diffusion_for(DDPMScheduler(**BETAS), ObjectiveSettings(noise_offset=0.1), has_channels=False)


def test_a_perturbation_is_further_noise_of_its_share():
    plain, other = process(), process(objective=dict(input_perturbation=0.25))
    noise = plain.noise(7, MANY, [1, 2, 2])
    assert plain.perturbed(noise, 7, MANY) is noise
    added = (other.perturbed(noise, 7, MANY) - noise).numpy()
    assert abs(added.std() - 0.25) < 0.01 and abs(np.corrcoef(added.flatten(), noise.numpy().flatten())[0, 1]) < 0.05


def test_timesteps_keep_to_their_range_and_lean_to_the_side_of_the_shift():
    def steps(**objective):
        return process(objective=objective).sample_t(7, MANY).numpy()

    within = steps(min_timestep=100, max_timestep=103)
    assert set(within) == {100, 101, 102}
    assert set(steps(min_timestep=100, max_timestep=103, timestep_shift=2.0)) == {100, 101, 102}
    for shift in (0.5, 3.0):
        share = np.median(steps(timestep_shift=shift)) / 1000  # of the median 1/2, shift / (1 + shift) becomes
        assert abs(share - shift / (1 + shift)) < 0.02
    assert np.array_equal(steps(timestep_shift=1.0), steps())
    for flags, said in ((dict(min_timestep=1000), "--min_timestep 1000"), (dict(max_timestep=1001), "--max_timestep")):
        with pytest.raises(BadInput, match=f"{said}.*the model has 1000 timesteps"):
            process(objective=flags)
    within = process(objective=dict(min_timestep=100, max_timestep=200))
    assert within.t_at([0.0, 0.5, 0.999, 1.0]).tolist() == [100, 150, 199, 199]
    assert process(objective=dict(min_timestep=999, max_timestep=1000)).sample_t(7, KEYS).tolist() == [999] * 3


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_right_prediction_leads_back_to_the_clean_latents(kind):
    clean, noise = map(paddle.to_tensor, clean_and_noise())
    t, chain = paddle.to_tensor(T), process(prediction_type=kind)
    found = chain.clean(chain.add_noise(clean, noise, t), chain.target(clean, noise, t), t)
    np.testing.assert_allclose(found.numpy(), clean.numpy(), atol=1e-4)
    assert chain.last(2).tolist() == [999, 999]


def test_a_schedule_that_ends_in_noise_alone_is_for_the_velocity():
    clean, noise = map(paddle.to_tensor, clean_and_noise())
    ending = process(objective=dict(zero_terminal_snr=True, snr_gamma=5.0), prediction_type="v_prediction")
    last = paddle.to_tensor([999] * 3)
    np.testing.assert_allclose(ending.add_noise(clean, noise, last).numpy(), noise.numpy(), atol=1e-6)
    np.testing.assert_allclose(ending.target(clean, noise, last).numpy(), -clean.numpy(), atol=1e-6)
    assert ending.weight(last).tolist() == [0, 0, 0]  # min(SNR, 5) / (SNR + 1)
    with pytest.raises(BadInput, match="--zero_terminal_snr: this model predicts the noise"):
        process(objective=dict(zero_terminal_snr=True))


class Flow(Diffusion):
    """Rectified flow, whose t is no step but a share."""

    def sample_t(self, seed, keys):
        return paddle.to_tensor([randomness.stream(seed, "share", *key).random(dtype=np.float32) for key in keys])

    def t_at(self, shares):
        return paddle.to_tensor(shares, "float32")

    def last(self, count):
        return paddle.ones([count])

    def clean(self, noisy, prediction, t):
        return noisy - t.reshape([-1, 1, 1, 1]) * prediction

    def add_noise(self, clean, noise, t):
        return clean + t.reshape([-1, 1, 1, 1]) * (noise - clean)

    def target(self, clean, noise, t):
        return noise - clean


def test_a_process_may_have_a_t_between_0_and_1():
    flow, (clean, noise) = Flow(), map(paddle.to_tensor, clean_and_noise())
    t = flow.sample_t(0, KEYS)
    assert t.dtype == paddle.float32 and ((t > 0) & (t < 1)).all()
    noisy, target = flow.add_noise(clean, noise, t), flow.target(clean, noise, t)
    np.testing.assert_allclose((noisy - t.reshape([-1, 1, 1, 1]) * target).numpy(), clean.numpy(), atol=1e-6)


def flow(shift=3.0, **objective):
    return diffusion.diffusion_for(FlowMatchEulerDiscreteScheduler(shift=shift), ObjectiveSettings(**objective))


def test_a_flow_is_the_straight_way_from_latents_to_noise():
    clean, noise = clean_and_noise()
    t = np.array([1.0, 500.0, 1000.0], np.float32)
    arguments = [paddle.to_tensor(each) for each in (clean, noise, t)]
    share = t[:, None, None, None] / 1000
    np.testing.assert_allclose(flow().add_noise(*arguments).numpy(), (1 - share) * clean + share * noise, atol=1e-6)
    np.testing.assert_array_equal(flow().target(*arguments).numpy(), noise - clean)
    found = flow().clean(flow().add_noise(*arguments), flow().target(*arguments), arguments[2])
    np.testing.assert_allclose(found.numpy(), clean, atol=1e-5)
    assert flow().last(2).tolist() == [1000.0, 1000.0] and flow().weight(arguments[2]) is None


def test_a_flows_timesteps_are_the_schedulers_and_lie_in_the_middle_before_its_shift():
    own = FlowMatchEulerDiscreteScheduler(shift=3.0)
    t = flow().sample_t(7, MANY).numpy()
    assert t.dtype == np.float32 and set(t) <= set(own.timesteps.numpy())
    np.testing.assert_allclose(flow().t_at([0.0, 0.999, 1.0]).numpy(), own.timesteps.numpy()[[-1, 0, 0]])
    # a normal number through the logistic function has quartiles at 0.338 and 0.662 (Esser et al. 2024, equation 19)
    for sampling, quartiles in ((None, (0.338, 0.5, 0.662)), ("uniform", (0.25, 0.5, 0.75))):
        shares = flow(shift=1.0, timestep_sampling=sampling).sample_t(7, MANY).numpy() / 1000
        assert np.abs(np.quantile(shares, (0.25, 0.5, 0.75)) - quartiles).max() < 0.03
    middle = np.median(flow(shift=1.0, timestep_shift=3.0).sample_t(7, MANY).numpy()) / 1000
    assert abs(middle - 0.75) < 0.03 and abs(np.median(t) / 1000 - 0.75) < 0.03
    assert set(flow(min_timestep=10, max_timestep=12).sample_t(7, MANY).numpy()) == set(own.timesteps.numpy()[-12:-10])
    assert np.array_equal(flow().sample_t(7, MANY[3:4]).numpy(), t[3:4])


def test_a_chain_can_have_its_timesteps_in_the_middle():
    steps = process(objective=dict(timestep_sampling="logit_normal")).sample_t(7, MANY).numpy() / 1000
    assert np.abs(np.quantile(steps, (0.25, 0.5, 0.75)) - (0.338, 0.5, 0.662)).max() < 0.03
    alike = process(objective=dict(timestep_sampling="uniform")).sample_t(7, MANY).numpy()
    assert np.array_equal(alike, process().sample_t(7, MANY).numpy())


@pytest.mark.parametrize("settings", [dict(snr_gamma=5.0), dict(zero_terminal_snr=True), dict(min_timestep=1000)])
def test_what_a_flow_has_not_is_refused(settings):
    [name] = settings
    with pytest.raises(BadInput, match=f"^--{name}"):
        flow(**settings)
