"""Prodigy and Lion, against the equations of their papers in NumPy."""

import numpy as np
import paddle
import pytest
from paddle import nn

from dreambooth.config.learning_sections import OptimizerSettings
from dreambooth.training.optimizers import table

STEPS = 20


def make(name, groups, rate, **changes):
    settings = OptimizerSettings(optimizer=name, **changes)
    schedule = table.learning_rate_schedule(settings, rate, STEPS)
    return table.OPTIMIZERS[name].make(settings, schedule, groups)


def weights_of(*values):
    return [
        paddle.create_parameter([len(each)], "float32", default_initializer=nn.initializer.Assign(np.float32(each)))
        for each in values
    ]


def step(optimizer, weights, gradients):
    sum((each * paddle.to_tensor(np.float32(g))).sum() for each, g in zip(weights, gradients)).backward()
    optimizer.step()
    optimizer.clear_grad()


def test_prodigy_follows_its_equations():
    """Algorithm 4 of Mishchenko and Defazio 2023, over two parameters that share one level."""
    beta1, beta2, epsilon, decay, rate = 0.8, 0.9, 1e-3, 0.05, 0.7
    starts = [np.array([1.0, -2.0]), np.array([0.5])]
    weights = weights_of(*starts)
    changes = dict(adam_beta1=beta1, adam_beta2=beta2, adam_epsilon=epsilon, adam_weight_decay=decay)
    prodigy = make("prodigy", [{"params": weights}], rate, **changes)
    x, first, second, average = ([each.copy() for each in starts], *([0.0, 0.0] for _ in range(3)))
    level, numerator, random = 1e-6, 0.0, np.random.default_rng(0)
    levels = []
    for _ in range(30):
        gradients = [each - goal + 0.1 * random.standard_normal(each.shape) for each, goal in zip(x, (3.0, -1.0))]
        step(prodigy, weights, gradients)
        root = beta2**0.5
        numerator *= root
        for i, g in enumerate(gradients):
            first[i] = beta1 * first[i] + (1 - beta1) * level * g
            second[i] = beta2 * second[i] + (1 - beta2) * level**2 * g**2
            numerator += (1 - root) * rate * level**2 * np.dot(g, starts[i] - x[i])
            average[i] = root * average[i] + (1 - root) * rate * level**2 * g
        used, level = level, max(level, numerator / sum(np.abs(each).sum() for each in average))
        for i in range(2):
            x[i] = x[i] * (1 - rate * used * decay) - rate * used * first[i] / (np.sqrt(second[i]) + used * epsilon)
            np.testing.assert_allclose(weights[i].numpy(), x[i], rtol=1e-3, atol=1e-6)
        levels.append(level)
    assert levels[-1] > 1000 * levels[0]  # it has risen by itself


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_prodigy_finds_the_least_of_a_bowl_whatever_its_scale_without_a_rate(scale):
    paddle.seed(0)
    weights, goal = weights_of(np.ones(40))[0], paddle.randn([40])
    prodigy = make("prodigy", [{"params": [weights]}], 1.0, adam_weight_decay=0.0)
    for _ in range(400):
        (scale * (weights - goal) ** 2).sum().backward()
        prodigy.step()
        prodigy.clear_grad()
    assert float((weights - goal).abs().mean()) < 0.1 * float((1 - goal).abs().mean())


def test_a_parameter_of_another_group_has_the_same_level_and_its_own_factor():
    one, other = weights_of([1.0], [1.0])
    groups = [{"params": [one], "learning_rate": 1.0}, {"params": [other], "learning_rate": 0.25}]
    prodigy = make("prodigy", groups, 1.0, adam_weight_decay=0.0, adam_epsilon=1e-12)
    step(prodigy, (one, other), ([1.0], [1.0]))
    moved = 1 - np.array([one.item(), other.item()], np.float64)
    assert moved[0] > 0 and moved[1] == pytest.approx(moved[0] / 4, rel=0.2)


def test_lion_follows_its_equations():
    """Algorithm 2 of Chen et al. 2023."""
    [weights] = weights_of([1.0, -2.0])
    lion = make("lion", [{"params": [weights]}], 0.1, adam_beta1=0.9, adam_weight_decay=0.5)
    expected, moment = np.array([1.0, -2.0]), 0.0
    for gradient in ([1.0, -3.0], [-0.05, 4.0], [-20.0, 0.0]):
        step(lion, [weights], [gradient])
        change = np.sign(0.9 * moment + 0.1 * np.array(gradient))
        moment = 0.99 * moment + 0.01 * np.array(gradient)
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * change
        np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-5)
