"""The base of our own optimizers: its accumulators, its count of steps, its decay."""

import numpy as np
import paddle
import pytest
from paddle import nn

from dreambooth.config.learning_sections import OptimizerSettings
from dreambooth.training.optimizers import table
from dreambooth.training.optimizers.custom import Custom


class Descent(Custom):
    """Plain descent, which remembers the sum of its gradients."""

    def _shapes(self, parameter):
        return {"total": (parameter.shape, "float32")}

    def _change(self, parameter, gradient, state, step):
        self.seen = step
        paddle.assign(state("total") + gradient, state("total"))
        return gradient


def descent(weights, rate=0.1, **changes):
    settings = OptimizerSettings(**changes)
    return Descent(settings, table.learning_rate_schedule(settings, rate, 9), [{"params": [weights]}])


def weights_of(*values):
    start = nn.initializer.Assign(np.float32(values))
    return paddle.create_parameter([len(values)], "float32", default_initializer=start)


def step(optimizer, weights, gradient):
    (weights * gradient).sum().backward()
    optimizer.step()
    optimizer.clear_grad()


def test_the_decay_is_apart_from_the_change():
    weights = weights_of(1.0, 2.0)
    step(descent(weights, adam_weight_decay=0.5), weights, 3.0)
    np.testing.assert_allclose(weights.numpy(), [1 * 0.95 - 0.3, 2 * 0.95 - 0.3], rtol=1e-6)


def test_the_steps_are_counted_on_from_a_state():
    weights = weights_of(1.0)
    first = descent(weights)
    for _ in range(3):
        step(first, weights, 1.0)
    state = {key: value if key == "LR_Scheduler" else value.clone() for key, value in first.state_dict().items()}
    assert first.seen == 3
    step(first, weights, 1.0)
    first.set_state_dict(state)
    step(first, weights, 1.0)
    assert first.seen == 4
    [total] = [float(value) for key, value in first.state_dict().items() if "total" in key]
    assert total == pytest.approx(4.0)


def test_a_base_alone_does_nothing():
    weights = weights_of(1.0)
    settings = OptimizerSettings()
    bare = Custom(settings, table.learning_rate_schedule(settings, 0.1, 9), [{"params": [weights]}])
    (weights * 1.0).sum().backward()
    with pytest.raises(NotImplementedError):
        bare.step()
