"""AdamW and its schedule over the networks that learn, clipping, and the optimizer's state by layer name."""

import math

import numpy as np
import paddle

from dreambooth.system import processes as system_processes
from dreambooth.training import optimizers

HALF = {"fp16": "float16", "bf16": "bfloat16"}
MOMENTS = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")


def named_parameters(networks):
    """{"unet.conv_in.weight": parameter, …} of all that learns."""
    return {
        f"{network_name}.{name}": parameter
        for network_name, network in networks.items()
        for name, parameter in network.named_parameters()
        if not parameter.stop_gradient
    }


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


class Updates:
    """What turns losses into updates: loss scaling, the exchange of gradients, clipping, AdamW and its schedule.

    The schedule runs at the UNet's rate; another network's rate is a factor on that.
    """

    def __init__(self, config, networks, steps, processes):
        self.networks, self.max_norm = networks, config.optimizer.max_grad_norm
        self.named = named_parameters(networks)
        self.parameters = list(self.named.values())
        rates = config.rates(processes)
        self.schedule = optimizers.learning_rate_schedule(config, rates["unet"], steps)
        self.adamw = paddle.optimizer.AdamW(
            learning_rate=self.schedule,
            parameters=[
                {
                    "params": [each for each in network.parameters() if not each.stop_gradient],
                    "learning_rate": rates[name] / rates["unet"],
                }
                for name, network in networks.items()
            ],
            beta1=config.optimizer.adam_beta1,
            beta2=config.optimizer.adam_beta2,
            epsilon=config.optimizer.adam_epsilon,
            weight_decay=config.optimizer.adam_weight_decay,
        )
        self.half = HALF.get(config.memory.mixed_precision) if system_processes.is_on_gpu() else None
        self.scaler = paddle.amp.GradScaler(enable=self.half == "float16")

    @property
    def rate(self):
        return self.schedule.get_lr()

    def precision(self):
        """The context of a forward pass: half precision where it was asked for and a GPU is there."""
        return paddle.amp.auto_cast(enable=self.half is not None, dtype=self.half or "float16")

    def backward(self, loss):
        self.scaler.scale(loss).backward()

    def gather(self):
        """Put the gradients of all processes together, unscale and clip them; returns their norm, or None where
        nothing needs it: to go through all gradients once more takes a fortieth of a full-size step on a CPU."""
        system_processes.average_gradients(self.parameters)
        self.scaler.unscale_(self.adamw)
        if self.max_norm or self.scaler.is_enable():
            return float(gradient_norm(self.parameters, self.max_norm))
        return None

    def apply(self, norm):
        """Make the update and tell whether it was made. With fp16, gradients that overflowed make none: the scaler
        lowers its scale, and the step is to be done again."""
        overflowed = self.scaler.is_enable() and not math.isfinite(norm)
        self.scaler.step(self.adamw)
        self.scaler.update()
        self.adamw.clear_grad(set_to_zero=False)
        if not overflowed:
            self.schedule.step()
        return not overflowed

    def finite(self):
        """Whether every weight that learns is a number."""
        return all(bool(paddle.isfinite(each).all()) for each in self.parameters)

    def state(self):
        """(tensors, JSON) to put into a checkpoint. The tensors are the optimizer's own, no copies, but for the names,
        as unet.conv_in.weight.moment1: Paddle's own keys are automatic (conv2d_0.w_0), and shift when another model is
        built first."""
        state = self.adamw.state_dict()
        tensors = {
            f"{name}.{moment}": state[f"{parameter.name}_{moment}_0"]
            for name, parameter in self.named.items()
            for moment in MOMENTS
            if f"{parameter.name}_{moment}_0" in state
        }
        scaler = {name: np.asarray(value).tolist() for name, value in self.scaler.state_dict().items()}
        return tensors, {"scaler": scaler, "schedule": {"last_epoch": self.schedule.last_epoch, "last_lr": self.rate}}

    def restore(self, tensors, state):
        """Put back what state() took out."""
        named = {}
        for name, parameter in self.named.items():
            for moment in MOMENTS:
                if f"{name}.{moment}" in tensors:  # a weight that saw no gradient has no state
                    named[f"{parameter.name}_{moment}_0"] = paddle.to_tensor(tensors[f"{name}.{moment}"])
        self.schedule.step(state["schedule"]["last_epoch"])
        self.adamw.set_state_dict({**named, "LR_Scheduler": self.schedule.state_dict()})
        if state["scaler"] and self.half == "float16":
            self.scaler.load_state_dict(state["scaler"])
