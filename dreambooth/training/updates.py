"""Updates: from the losses of an update's micro-batches to new weights, and the optimizer's state by layer name."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from dreambooth.system import console, processes
from dreambooth.system.devices import cards
from dreambooth.system.patches import layers
from dreambooth.training.optimizers import table as optimizers

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterable, Mapping

    from paddle import Tensor, nn
    from paddle.optimizer import Optimizer

    from dreambooth.config.learning_sections import OptimizerSettings
    from dreambooth.config.run_sections import MemorySettings
    from dreambooth.system.types import Arrays

_FIRST_KIND = "adamw"  # of checkpoints that name none
_SECOND_MATRIX = ".up.weight"
_MOST_OVERFLOWS = 30  # in a row; the scale halves each time, so this many have another cause


def named_parameters(networks: Mapping[str, nn.Layer]) -> dict[str, Tensor]:
    """Map "unet.conv_in.weight" and the like to the parameters that train."""
    return {
        f"{part}.{name}": parameter
        for part, network in networks.items()
        for name, parameter in network.named_parameters()
        if not parameter.stop_gradient
    }


@paddle.no_grad()
def gradient_norm(parameters: Iterable[Tensor], max_norm: float | None = None) -> Tensor:
    """Compute the global norm of the gradients; with max_norm they are scaled down to it where they are above."""
    gradients = [each.grad for each in parameters if each.grad is not None]
    squares = [gradient.astype("float32").square().sum() for gradient in gradients]
    norm = paddle.add_n(squares).sqrt()
    if max_norm is not None:
        scale = paddle.clip(max_norm / (norm + 1e-6), max=1.0)
        for gradient in gradients:
            gradient.multiply_(scale.astype(gradient.dtype))
    return norm


def _step_alone(optimizer: Optimizer) -> None:
    """Update one optimizer's parameter, and free its gradient."""
    optimizer.step()
    optimizer.clear_grad(set_to_zero=False)


def _groups(networks: Mapping[str, nn.Layer], factors: Mapping[str, float], ratio: float) -> list[dict[str, Any]]:
    """Group the parameters by their factors on the rate.

    That of a LoRA's second matrices has `ratio` beside that of its part (Hayou et al. 2024, arXiv 2402.12354).
    """
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for part, network in networks.items():
        for name, parameter in network.named_parameters():
            if not parameter.stop_gradient:
                factor = factors[part] * (ratio if name.endswith(_SECOND_MATRIX) else 1)
                group = groups.setdefault((part, factor), {"params": [], "learning_rate": factor})
                group["params"].append(parameter)
    return list(groups.values())


class Updates:
    """The loss scale, the exchange of gradients, their clipping, the optimizer and its schedule.

    The schedule runs at the rate of the first part; another part's rate is a factor on that. A checkpoint keeps it by
    state() and restore().
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        networks: Mapping[str, nn.Layer],
        rates: Mapping[str, float],
        steps: int,
        memory: MemorySettings,
        ratio: float = 1.0,
    ) -> None:
        self.named = named_parameters(networks)
        self.parameters = list(self.named.values())
        self._max_norm = settings.max_grad_norm
        self._kind = settings.optimizer
        self._spec = optimizers.OPTIMIZERS[self._kind]
        first = rates[next(iter(networks))]
        self.schedule = optimizers.learning_rate_schedule(settings, first, steps)
        groups = _groups(networks, {part: rate / first for part, rate in rates.items()}, ratio)
        self._is_early = memory.early_update
        if self._is_early:
            # a step is one of all parameters of an optimizer, so each parameter has its own
            groups = [{**group, "params": [each]} for group in groups for each in group["params"]]
            self.optimizers = [self._spec.make(settings, self.schedule, [group]) for group in groups]
            for group, optimizer in zip(groups, self.optimizers):
                # called in the backward pass, when all uses of the parameter have added to its gradient
                group["params"][0]._register_backward_hook(functools.partial(_step_alone, optimizer))  # noqa: SLF001
        else:
            self.optimizers = [self._spec.make(settings, self.schedule, groups)]
        self.half = cards.half(memory.mixed_precision)
        self.scaler = paddle.amp.GradScaler(enable=self.half == "float16")
        self._overflows = 0  # in a row

    @property
    def rate(self) -> float:
        """The learning rate of the next update."""
        return self.schedule.get_lr()

    def precision(self) -> contextlib.AbstractContextManager[None]:
        """Return the context of a forward pass: half precision where it is set and there is a GPU."""
        return cards.computing_in(self.half)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients to those of the update."""
        with layers.errors_of_python():
            self.scaler.scale(loss).backward()

    def gather_gradients(self) -> Tensor | None:
        """Average the gradients over the processes, unscale and clip them.

        Returns their norm, or None where nothing needs it: another pass over all gradients takes a fortieth of a
        full-size step on a CPU. Whoever reads it waits for the card, so it stays a tensor.
        """
        processes.average_gradients(self.parameters)
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        if self._max_norm or self.scaler.is_enable():
            return gradient_norm(self.parameters, self._max_norm)
        return None

    def step(self, norm: Tensor | None) -> bool:
        """Make the update, and return whether it was made.

        An early update has made it in the backward pass. With fp16, gradients that overflowed make none: the scaler
        lowers its scale, and the caller repeats the step.
        """
        overflowed = self.scaler.is_enable() and norm is not None and not math.isfinite(float(norm))
        for optimizer in () if self._is_early else self.optimizers:
            self.scaler.step(optimizer)
            self.scaler.update()
            optimizer.clear_grad(set_to_zero=False)
        self._overflows = self._overflows + 1 if overflowed else 0
        if not overflowed:
            self.schedule.step()
        return not overflowed

    @property
    def is_stuck(self) -> bool:
        """Check whether so many updates in a row overflowed that a smaller scale cannot help."""
        return self._overflows >= _MOST_OVERFLOWS

    def has_finite_weights(self) -> bool:
        """Check whether every weight that trains is finite."""
        return all(bool(paddle.isfinite(each).all()) for each in self.parameters)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return (tensors, JSON) for a checkpoint.

        The tensors are the optimizer's own and no copies, named as unet.conv_in.weight.moment1. Paddle's names are
        automatic (conv2d_0.w_0), and shift when another model is built first.
        """
        state: dict[str, Any] = {}
        for optimizer in self.optimizers:
            state.update(optimizer.state_dict())
        ours = self._spec.accumulator_names(self.named)
        tensors = {name: state[automatic] for name, automatic in ours.items() if automatic in state}
        scaler = {name: np.asarray(value).tolist() for name, value in self.scaler.state_dict().items()}
        kind = {} if self._kind == _FIRST_KIND else {"kind": self._kind}
        schedule = {"last_epoch": self.schedule.last_epoch, "last_lr": self.rate}
        return tensors, {"scaler": scaler, "schedule": schedule, **kind}

    def restore(self, tensors: Arrays, state: Mapping[str, Any]) -> None:
        """Put back what state() returned."""
        updates = state["schedule"]["last_epoch"]
        if not isinstance(updates, int) or updates < 0:
            raise ValueError(f"the state of its schedule is {updates!r}")
        self.schedule.step(updates)
        if (before := state.get("kind", _FIRST_KIND)) != self._kind:
            console.warn(f"--optimizer {self._kind}: the checkpoint has the state of {before}, so this one begins anew")
            return
        if (shared := self._spec.shared) and f"{next(iter(self.named))}.{shared}" not in tensors:
            console.warn(f"--optimizer {self._kind}: the checkpoint's layers are others, so its state begins anew")
            return
        # an early update gives each optimizer the state of its parameter alone: it would keep the others
        by_optimizer = [{name: each} for name, each in self.named.items()] if self._is_early else [self.named]
        for optimizer, named in zip(self.optimizers, by_optimizer):
            restored = {
                automatic: paddle.to_tensor(tensors[name])
                for name, automatic in self._spec.accumulator_names(named).items()
                if name in tensors  # a weight that saw no gradient has no state
            }
            optimizer.set_state_dict({**restored, "LR_Scheduler": self.schedule.state_dict()})
        if state["scaler"] and self.half == "float16":
            self.scaler.load_state_dict(state["scaler"])
