"""Optimizers of one network, and their steps."""

from dreambooth.config.learning_sections import OptimizerSettings
from dreambooth.training.optimizers import table as optimizers

RATE, STEPS = 1e-3, 20


def make(name, parameters, rate=RATE, **changes):
    """An optimizer by its name, at a constant rate."""
    settings = OptimizerSettings(optimizer=name, **changes)
    schedule = optimizers.learning_rate_schedule(settings, rate, STEPS)
    return optimizers.OPTIMIZERS[name].make(settings, schedule, [{"params": parameters}])


def steps(name, network, inputs, optimizer=None):
    """Make a step for each input, by a new optimizer or the given one; return it."""
    optimizer = optimizer or make(name, network.parameters())
    for each in inputs:
        network(each).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
    return optimizer
