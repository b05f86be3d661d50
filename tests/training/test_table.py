"""The optimizers and the learning-rate schedules, against closed formulas and numbers worked out by hand."""

import math
from typing import get_args

import numpy as np
import paddle
import pytest
from paddle import nn
from support import reads
from support.optimizers import RATE, STEPS, make, steps

from dreambooth.config.learning_sections import RATE_FREE, OptimizerName, OptimizerSettings
from dreambooth.training.optimizers import table as optimizers

WARMUP = 4


def progress(step):
    return (step - WARMUP) / (STEPS - WARMUP)


SCHEDULES = {
    "constant_with_warmup": lambda step: RATE,
    "linear": lambda step: RATE * (1 - progress(step)),
    "cosine": lambda step: RATE * (1 + math.cos(math.pi * progress(step))) / 2,
    "polynomial": lambda step: (RATE - 1e-7) * (1 - progress(step)) ** 2 + 1e-7,
    # two waves, each from the full rate down to nought; the second one starts half-way, at step 12
    "cosine_with_restarts": lambda step: RATE * (1 + math.cos(math.pi * (2 * progress(step) % 1))) / 2,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_rises_through_the_warmup_and_then_follows_its_formula(name):
    schedule = optimizers.learning_rate_schedule(
        OptimizerSettings(lr_scheduler=name, lr_warmup_steps=WARMUP, lr_power=2.0, lr_num_cycles=2), RATE, STEPS
    )
    for step in range(STEPS):
        expected = RATE * step / WARMUP if step < WARMUP else SCHEDULES[name](step)
        assert schedule.get_lr() == pytest.approx(expected, rel=1e-6, abs=1e-12), step
        schedule.step()


def test_the_constant_rate_has_no_warmup():
    schedule = optimizers.learning_rate_schedule(OptimizerSettings(), RATE, STEPS)
    for _ in range(STEPS):
        assert schedule.get_lr() == RATE
        schedule.step()


@pytest.mark.parametrize("warmup", [STEPS - 1, STEPS, STEPS + 1])
@pytest.mark.parametrize("name", ["constant", *SCHEDULES])
def test_a_warmup_as_long_as_the_run_is_no_obstacle(name, warmup):
    schedule = optimizers.learning_rate_schedule(
        OptimizerSettings(lr_scheduler=name, lr_warmup_steps=warmup), RATE, STEPS
    )
    for _ in range(STEPS):
        assert math.isfinite(schedule.get_lr())
        schedule.step()


def test_adamw_follows_its_equations():
    """Loshchilov & Hutter 2019, algorithm 2, on one weight."""
    rate, beta1, beta2, epsilon, decay = 0.1, 0.5, 0.75, 0.25, 0.5
    network = nn.Linear(1, 1, bias_attr=False)
    network.weight.set_value(paddle.to_tensor([[2.0]]))
    settings = OptimizerSettings(adam_beta1=beta1, adam_beta2=beta2, adam_epsilon=epsilon, adam_weight_decay=decay)
    schedule = optimizers.learning_rate_schedule(settings, rate, STEPS)
    adamw = optimizers.OPTIMIZERS["adamw"].make(settings, schedule, [{"params": network.parameters()}])
    weight, first, second = 2.0, 0.0, 0.0
    for step, gradient in enumerate((1.0, -3.0, 0.5), start=1):
        network(paddle.to_tensor([[gradient]])).sum().backward()
        adamw.step()
        adamw.clear_grad()
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        weight -= rate * decay * weight
        weight -= rate * first / (1 - beta1**step) / (math.sqrt(second / (1 - beta2**step)) + epsilon)
        assert network.weight.item() == pytest.approx(weight, rel=1e-5)


def test_every_name_of_an_optimizer_has_its_row():
    assert set(optimizers.OPTIMIZERS) == set(get_args(OptimizerName))


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_a_row_lists_all_that_its_optimizer_keeps(name):
    spec, network = optimizers.OPTIMIZERS[name], nn.Linear(512, 256)
    optimizer = make(name, network.parameters())
    network(paddle.ones([1, 512])).sum().backward()
    optimizer.step()
    state = {key: value for key, value in optimizer.state_dict().items() if key != "LR_Scheduler"}
    names = {key.removesuffix("_0").removeprefix(f"{each.name}_") for key in state for each in network.parameters()}
    assert {each for each in names if ".w_" not in each and ".b_" not in each} == set(spec.accumulators)
    kept = sum(np.asarray(value).nbytes for key, value in state.items() if key.startswith(network.weight.name))
    assert kept <= max(1.02 * spec.bytes_per_weight, 0.05) * network.weight.size


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
@pytest.mark.parametrize("shape", [[3], [5, 7], [300, 40], [64, 16, 3, 3]])
def test_every_optimizer_finds_the_least_of_a_bowl(name, shape):
    paddle.seed(0)
    weights = paddle.create_parameter(shape, "float32", default_initializer=nn.initializer.Constant(1.0))
    goal = paddle.randn(shape)
    rate, most = (1.0, 400) if name in RATE_FREE else (0.02, 150)
    optimizer = make(name, [weights], rate=rate, adam_weight_decay=0.0)
    for _ in range(most):
        ((weights - goal) ** 2).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        optimizer._learning_rate.step()
    assert float((weights - goal).abs().mean()) < 0.3 * float((1 - goal).abs().mean())


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_a_step_reads_nothing_from_the_card(name):
    network, inputs = nn.Linear(512, 256), [paddle.randn([1, 512])] * 3
    optimizer = steps(name, network, inputs)
    with reads.counted() as found:
        steps(name, network, inputs, optimizer)
    assert found == []


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_a_state_that_is_put_back_repeats_its_steps_bit_for_bit(name):
    paddle.seed(2)
    network, inputs = nn.Linear(100, 90), [paddle.randn([8, 100]) for _ in range(5)]
    optimizer = steps(name, network, inputs[:2])
    state = {key: value if key == "LR_Scheduler" else value.clone() for key, value in optimizer.state_dict().items()}
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    steps(name, network, inputs[2:], optimizer)
    first = network.weight.numpy().copy()
    optimizer.set_state_dict(state)
    network.set_state_dict(weights)
    steps(name, network, inputs[2:], optimizer)
    assert np.array_equal(network.weight.numpy(), first)


def test_a_group_has_its_own_factor_on_the_rate():
    """The first step of AdamW moves a weight by the rate, whatever its gradient."""
    settings = OptimizerSettings(adam_weight_decay=0.0)
    one, other = (nn.Linear(2, 2, bias_attr=False) for _ in range(2))
    groups = [{"params": one.parameters()}, {"params": other.parameters(), "learning_rate": 0.25}]
    schedule = optimizers.learning_rate_schedule(settings, RATE, STEPS)
    optimizer = optimizers.OPTIMIZERS["adamw"].make(settings, schedule, groups)
    before = [each.weight.numpy().copy() for each in (one, other)]
    other(one(paddle.ones([1, 2]))).sum().backward()
    optimizer.step()
    moved = [np.abs(each.weight.numpy() - old) for each, old in zip((one, other), before)]
    assert np.allclose(moved[0], RATE, rtol=1e-2) and np.allclose(moved[1], RATE / 4, rtol=1e-2)
