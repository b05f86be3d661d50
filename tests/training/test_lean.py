"""The optimizers with little state, against AdamW and against their equations."""

import numpy as np
import paddle
import pytest
from paddle import nn
from support.optimizers import RATE, make, steps


@pytest.mark.parametrize("kind", ["large", "small"])
def test_eight_bits_follow_adamw(kind):
    paddle.seed(1)
    networks = [nn.Linear(*((100, 90) if kind == "large" else (9, 8))) for _ in range(2)]
    networks[1].set_state_dict(networks[0].state_dict())
    before = networks[0].weight.numpy().copy()
    inputs = [paddle.randn([8, networks[0].weight.shape[0]]) for _ in range(20)]
    for name, network in zip(("adamw", "adamw8bit"), networks):
        steps(name, network, inputs)
    moved = np.abs(networks[0].weight.numpy() - before).mean()
    difference = np.abs(networks[0].weight.numpy() - networks[1].weight.numpy()).mean()
    assert difference < (0.1 if kind == "large" else 1e-4) * moved


def test_a_weight_whose_gradient_is_small_in_its_block_makes_no_large_step():
    """One large gradient leaves the bytes of the others no room: their roots do not become zero."""
    weights = paddle.create_parameter([8192], "float32", default_initializer=nn.initializer.Constant(0.0))
    gradient = paddle.full([8192], 1e-4)
    gradient[0] = 100.0
    optimizer = make("adamw8bit", [weights])
    for _ in range(10):
        (weights * gradient).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    assert float(weights.abs().max()) <= 15 * RATE


def test_adafactor_follows_its_equations():
    """Algorithm 4 of Shazeer and Stern 2018, on a matrix and a vector, in NumPy."""
    random = np.random.default_rng(0)
    for shape in ([4, 6], [5]):
        start = random.standard_normal(shape).astype(np.float32)
        weights = paddle.create_parameter(shape, "float32", default_initializer=nn.initializer.Assign(start))
        optimizer = make("adafactor", [weights], adam_weight_decay=0.5)
        row, column, expected = 0.0, 0.0, start.astype(float)
        for step in range(1, 4):
            gradient = random.standard_normal(shape)
            (weights * paddle.to_tensor(gradient.astype(np.float32))).sum().backward()
            optimizer.step()
            optimizer.clear_grad()
            share, squares = step**-0.8, gradient**2 + 1e-30
            row = (1 - share) * row + share * (squares.mean(1) if len(shape) > 1 else squares)
            column = (1 - share) * column + share * squares.mean(0)
            second = np.outer(row, column) / row.mean() if len(shape) > 1 else row
            change = gradient / np.sqrt(second)
            change /= max(1.0, np.sqrt((change**2).mean()))
            expected = expected * (1 - RATE * 0.5) - RATE * change
            np.testing.assert_allclose(weights.numpy(), expected, rtol=2e-4, atol=1e-6)
