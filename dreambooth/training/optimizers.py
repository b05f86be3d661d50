"""The optimizers that a run can use, and the schedule of its learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LRScheduler
from ppdiffusers.optimization import get_scheduler

from dreambooth.config.sections import OptimizerName, OptimizerSettings
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from paddle import Tensor

    # groups of parameters, each with a factor on the learning rate
    Groups = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer: its construction, and its state for each parameter."""

    make: Callable[[OptimizerSettings, LRScheduler, Groups], Optimizer]
    accumulators: tuple[str, ...]  # Paddle's names of its state
    bytes_per_weight: float  # of its accumulators

    def accumulator_names(self, named: Mapping[str, Tensor], separator: str = ".") -> dict[str, str]:
        """Map a name for each accumulator of each parameter to the optimizer's own, which is automatic."""
        return {
            f"{name}{separator}{accumulator}": f"{parameter.name}_{accumulator}_0"
            for name, parameter in named.items()
            for accumulator in self.accumulators
        }


def _adamw(settings: OptimizerSettings, schedule: LRScheduler, groups: Groups) -> Optimizer:
    return paddle.optimizer.AdamW(
        learning_rate=schedule,
        parameters=list(groups),
        beta1=settings.adam_beta1,
        beta2=settings.adam_beta2,
        epsilon=settings.adam_epsilon,
        weight_decay=settings.adam_weight_decay,
    )


_MOST = 10.0  # of Adam's change, which is about 1; a level too low would make a large one


class _Lean(Optimizer):
    """An optimizer of ours: its accumulators by name, and the update of one parameter.

    Paddle 2.6.2 and 3.3.1 have neither Adafactor nor an AdamW of 8 bits.
    """

    def __init__(self, settings: OptimizerSettings, schedule: LRScheduler, groups: Groups) -> None:
        super().__init__(learning_rate=schedule, parameters=list(groups))
        self._settings = settings
        self._begun: set[str] = set()
        self._counts: dict[str, int] = {}  # the steps of each parameter

    def _shapes(self, parameter: Tensor) -> dict[str, tuple[list[int], str]]:
        """Return {accumulator: (shape, kind)}."""
        raise NotImplementedError

    def _change(self, parameter: Tensor, gradient: Tensor, state: Callable[[str], Tensor], step: int) -> Tensor:
        """Return what the learning rate multiplies, and bring the accumulators up to date."""
        raise NotImplementedError

    def _update_param_group(self, group: Mapping[str, Any]) -> Any:  # noqa: ANN401  of two kinds in the library
        return group["params"]

    def _create_accumulators(self, block: object, parameters: Sequence[Tensor] | dict[str, Any]) -> None:
        listed = self._update_param_group(parameters) if isinstance(parameters, dict) else parameters
        for parameter in listed:
            if parameter.name not in self._begun:
                self._begun.add(parameter.name)
                for name, (shape, kind) in {**self._shapes(parameter), "steps": ([1], "float32")}.items():
                    self._add_accumulator(name, parameter, dtype=kind, shape=shape)

    @override
    def set_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back a state, from which the steps are counted on."""
        self._counts.clear()
        super().set_state_dict(state_dict)

    def _count(self, parameter: Tensor, steps: Tensor) -> int:
        """Count a step of a parameter. The accumulator is read once: each time, the host waits for the card."""
        name = parameter.name
        self._counts[name] = 1 + (self._counts[name] if name in self._counts else int(steps.item()))
        return self._counts[name]

    @paddle.no_grad()
    def _append_optimize_op(self, block: object, pair: Sequence[Tensor] | dict[str, Any]) -> None:
        parameter, gradient = self._update_param_group(pair) if isinstance(pair, dict) else pair

        def state(name: str) -> Tensor:
            return self._get_accumulator(name, parameter)

        step = self._count(parameter, state("steps"))
        paddle.assign(state("steps") + 1, state("steps"))
        change = self._change(parameter, gradient.astype("float32"), state, step)
        rate = self._create_param_lr((parameter, gradient))
        # a decay apart from the gradient, as in AdamW (Loshchilov & Hutter 2019)
        kept = 1 - rate * self._settings.adam_weight_decay
        paddle.assign(parameter * kept - rate * change, parameter)  # in its place, which worker processes share


class _AdamW8Bit(_Lean):
    """AdamW whose moments are bytes, in blocks of 256 with a scale each, after Dettmers et al. 2022.

    A byte is the fourth root of a moment's share of the largest in its block, so that small ones have levels too. The
    first moment is signed. Of the second its root is kept. Small parameters keep float32.
    """

    _BLOCK, _SMALL, _AT_ONCE = 256, 4096, 1 << 20

    @override
    def _shapes(self, parameter: Tensor) -> dict[str, tuple[list[int], str]]:
        if parameter.size < self._SMALL:
            return {name: (parameter.shape, "float32") for name in ("moment1", "moment2")}
        blocks = -(-parameter.size // self._BLOCK)
        shapes = {"moment1": ([blocks * self._BLOCK], "int8"), "moment2": ([blocks * self._BLOCK], "uint8")}
        return {**shapes, **{name: ([blocks], "float32") for name in ("scale1", "scale2")}}

    @override
    def _change(self, parameter: Tensor, gradient: Tensor, state: Callable[[str], Tensor], step: int) -> Tensor:
        if parameter.size < self._SMALL:
            first, second, change = self._moments(state("moment1"), state("moment2"), gradient, step)
            paddle.assign(first, state("moment1"))
            paddle.assign(second, state("moment2"))
            return change
        flat = gradient.flatten()
        names = "moment1", "moment2", "scale1", "scale2"
        old = [state(name) for name in names]
        flat = paddle.concat([flat, paddle.zeros([old[0].size - flat.size])]) if old[0].size > flat.size else flat
        parts: list[tuple[Tensor, ...]] = []
        for begin in range(0, flat.size, self._AT_ONCE):  # what is at work at once fits the caches
            end = min(begin + self._AT_ONCE, flat.size)
            blocks = slice(begin // self._BLOCK, end // self._BLOCK)
            first, root, scale1, scale2 = (old[0][begin:end], old[1][begin:end], old[2][blocks], old[3][blocks])
            parts.append(self._part(flat[begin:end], first, root, scale1, scale2, step))
        for tensor, new in zip(old, map(paddle.concat, list(zip(*parts))[:4])):
            paddle.assign(new, tensor)
        return paddle.concat([part[4] for part in parts])[: parameter.size].reshape(parameter.shape)

    def _part(
        self, gradient: Tensor, first: Tensor, root: Tensor, scale1: Tensor, scale2: Tensor, step: int
    ) -> tuple[Tensor, ...]:
        """Return the new bytes and scales of some blocks, and their change."""
        rows = [-1, self._BLOCK]
        signed = first.astype("float32").reshape(rows) / 127
        moment1 = signed.sign() * signed.square().square() * scale1.unsqueeze(1)
        moment2 = ((root.astype("float32").reshape(rows) / 255).square().square() * scale2.unsqueeze(1)).square()
        moment1, moment2, change = self._moments(moment1, moment2, gradient.reshape(rows), step)
        roots, sizes = moment2.sqrt(), moment1.abs()
        scale1, scale2 = sizes.max(1), roots.max(1)
        least = float(np.finfo(np.float32).tiny)
        levels = (sizes / scale1.clip(least).unsqueeze(1)).sqrt().sqrt() * 127
        first = ((levels + self._dither(len(sizes), 0.5497 * step)).floor().clip(max=127) * moment1.sign()).astype(
            "int8"
        )
        levels = (roots / scale2.clip(least).unsqueeze(1)).sqrt().sqrt() * 255
        above_0 = (roots > 0).astype("float32")  # a 0 would make a large step
        root = (levels + self._dither(len(roots), 0.7549 * step)).floor().clip(max=255).maximum(above_0).astype("uint8")
        return first.flatten(), root.flatten(), scale1, scale2, change.flatten()

    def _dither(self, blocks: int, shift: float) -> Tensor:
        """Return evenly spread numbers from 0 to 1, to be added before rounding down.

        A moment changes by less than a level in a step. Without this, CLIP-I goes 79 % of the way in place of 95.
        """
        numbers = paddle.arange(self._BLOCK, dtype="float32") * 0.6180 + (shift % 1)
        numbers = numbers.unsqueeze(0) + paddle.arange(blocks, dtype="float32").unsqueeze(1) * 0.3247
        return numbers - numbers.floor()

    def _moments(self, moment1: Tensor, moment2: Tensor, gradient: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the new moments, and Adam's change (Kingma & Ba 2015, algorithm 1)."""
        beta1, beta2 = self._settings.adam_beta1, self._settings.adam_beta2
        moment1 = moment1 * beta1 + gradient * (1 - beta1)
        moment2 = moment2 * beta2 + gradient.square() * (1 - beta2)
        root = (moment2 / (1 - beta2**step)).sqrt() + self._settings.adam_epsilon
        return moment1, moment2, (moment1 / (1 - beta1**step) / root).clip(-_MOST, _MOST)


class _Adafactor(_Lean):
    """Adafactor (Shazeer & Stern 2018, algorithm 4) without a first moment, at the rate of the schedule.

    Of a matrix's second moment it keeps the means of rows and columns alone. The change is clipped where its root mean
    square is above 1, so a rate means what it means to Adam.
    """

    @override
    def _shapes(self, parameter: Tensor) -> dict[str, tuple[list[int], str]]:
        if parameter.ndim < 2:
            return {"second": (parameter.shape, "float32")}
        rows = parameter.shape[0]
        return {"row": ([rows], "float32"), "column": ([parameter.size // rows], "float32")}

    @override
    def _change(self, parameter: Tensor, gradient: Tensor, state: Callable[[str], Tensor], step: int) -> Tensor:
        share = step**-0.8  # 1 - beta2 of this step, section 7.2
        squares = gradient.square() + 1e-30
        if parameter.ndim < 2:
            paddle.assign(state("second") * (1 - share) + squares * share, state("second"))
            change = gradient / state("second").sqrt()
        else:
            squares = squares.reshape([parameter.shape[0], -1])
            for name, axis in (("row", 1), ("column", 0)):
                paddle.assign(state(name) * (1 - share) + squares.mean(axis) * share, state(name))
            row = (state("row") / state("row").mean()).rsqrt().unsqueeze(1)
            change = gradient.reshape(squares.shape) * row * state("column").rsqrt().unsqueeze(0)
            change = change.reshape(parameter.shape)
        return change / change.square().mean().sqrt().clip(min=1.0)


OPTIMIZERS: dict[OptimizerName, OptimizerSpec] = {
    # its two moments are float32
    "adamw": OptimizerSpec(_adamw, ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc"), bytes_per_weight=8),
    # a byte for each moment, and two scales for a block of 256
    "adamw8bit": OptimizerSpec(
        _AdamW8Bit, ("moment1", "moment2", "scale1", "scale2", "steps"), bytes_per_weight=2 + 8 / 256
    ),
    # of Stable Diffusion's UNet, rows and columns are a hundredth of the weights
    "adafactor": OptimizerSpec(_Adafactor, ("row", "column", "second", "steps"), bytes_per_weight=0.04),
}


def learning_rate_schedule(settings: OptimizerSettings, rate: float, steps: int) -> LRScheduler:
    """Make the library's schedule, counted in updates."""
    return get_scheduler(
        settings.lr_scheduler,
        learning_rate=rate,
        num_warmup_steps=settings.lr_warmup_steps,
        # polynomial divides by the steps after the warm-up
        num_training_steps=max(steps, settings.lr_warmup_steps + 1),
        num_cycles=settings.lr_num_cycles,
        power=settings.lr_power,
    )
