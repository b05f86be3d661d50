"""AdamW and its schedule over the networks that learn, clipping, and the optimizer's state by layer name."""

import numpy as np
import paddle

MOMENTS = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")


def named_parameters(networks):
    """{"unet.conv_in.weight": parameter, …} of all that learns."""
    return {
        f"{network_name}.{name}": parameter
        for network_name, network in networks.items()
        for name, parameter in network.named_parameters()
        if not parameter.stop_gradient
    }


def learning_rate_schedule(config, rate, steps):
    """The library's schedule, counted in optimizer updates."""
    from ppdiffusers.optimization import get_scheduler

    return get_scheduler(
        config.lr_scheduler,
        learning_rate=rate,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=steps,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    )


def adamw(config, networks, steps, processes):
    """The optimizer. Its schedule runs at the UNet's rate; another network's rate is a factor on that."""
    rates = config.rates(processes)
    groups = [
        {
            "params": [each for each in network.parameters() if not each.stop_gradient],
            "learning_rate": rates[name] / rates["unet"],
        }
        for name, network in networks.items()
    ]
    return paddle.optimizer.AdamW(
        learning_rate=learning_rate_schedule(config, rates["unet"], steps),
        parameters=groups,
        beta1=config.adam_beta1,
        beta2=config.adam_beta2,
        epsilon=config.adam_epsilon,
        weight_decay=config.adam_weight_decay,
    )


@paddle.no_grad()
def gradient_norm(parameters, max_norm=None):
    """The global norm of the gradients; with max_norm they are scaled down to it where they are above."""
    gradients = [each.grad for each in parameters if each.grad is not None]
    squares = [gradient.astype("float32").square().sum() for gradient in gradients]
    norm = paddle.add_n(squares).sqrt()
    if max_norm is not None:
        scale = paddle.clip(max_norm / (norm + 1e-6), max=1.0)
        for gradient in gradients:
            gradient.multiply_(scale.astype(gradient.dtype))
    return norm


def state_tensors(optimizer, networks):
    """The optimizer's state as {"unet.conv_in.weight.moment1": array}. Paddle names it after the parameters' automatic
    names (conv2d_0.w_0), which shift when another model is built first."""
    state = optimizer.state_dict()
    return {
        f"{name}.{moment}": np.asarray(state[f"{parameter.name}_{moment}_0"].numpy())
        for name, parameter in named_parameters(networks).items()
        for moment in MOMENTS
        if f"{parameter.name}_{moment}_0" in state
    }


def restore(optimizer, networks, tensors, step):
    """Put back what state_tensors took out, and the schedule to where `step` updates brought it."""
    state = {}
    for name, parameter in named_parameters(networks).items():
        for moment in MOMENTS:
            if f"{name}.{moment}" in tensors:  # a weight that saw no gradient has no state
                state[f"{parameter.name}_{moment}_0"] = paddle.to_tensor(tensors[f"{name}.{moment}"])
    schedule = optimizer._learning_rate
    schedule.step(step)
    state["LR_Scheduler"] = schedule.state_dict()
    optimizer.set_state_dict(state)
