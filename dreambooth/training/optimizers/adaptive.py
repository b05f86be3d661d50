"""Optimizers with another rate than Adam's: Prodigy, which finds it, and Lion, whose steps all have one length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import paddle

from dreambooth.system.types import override
from dreambooth.training.optimizers.custom import Custom

if TYPE_CHECKING:
    from collections.abc import Callable

    from paddle import Tensor
    from paddle.optimizer.lr import LRScheduler

    from dreambooth.config.learning_sections import OptimizerSettings
    from dreambooth.training.optimizers.custom import Groups


class Prodigy(Custom):
    """Prodigy (Mishchenko & Defazio 2023, algorithm 4): Adam with a level that estimates the right rate.

    The level is a lower bound on the distance from the weights at the start to a solution, and never falls. The
    learning rate is a factor on it.
    """

    _FIRST = 1e-6  # level

    def __init__(self, settings: OptimizerSettings, schedule: LRScheduler, groups: Groups) -> None:
        super().__init__(settings, schedule, groups)
        self._keeper: Tensor = groups[0]["params"][0]  # whose accumulators have what all parameters share
        self._products: list[Tensor] = []  # of this step, by parameter
        self._sums: list[Tensor] = []

    @override
    def _shapes(self, parameter: Tensor) -> dict[str, tuple[list[int], str]]:
        shapes = {name: (parameter.shape, "float32") for name in ("moment1", "moment2", "average", "start")}
        shared = ("level", "numerator") if parameter is self._keeper else ()
        return {**shapes, **{name: ([1], "float32") for name in shared}}

    @override
    def _level(self, parameter: Tensor) -> Tensor:
        return self._get_accumulator("level", self._keeper)

    @override
    def _change(self, parameter: Tensor, gradient: Tensor, state: Callable[[str], Tensor], step: int) -> Tensor:
        beta1, beta2 = self._settings.adam_beta1, self._settings.adam_beta2
        if step == 1:
            paddle.assign(parameter, state("start"))
            if parameter is self._keeper:
                paddle.assign(paddle.full_like(state("level"), self._FIRST), state("level"))
        level = self._level(parameter)
        paddle.assign(state("moment1") * beta1 + gradient * ((1 - beta1) * level), state("moment1"))
        paddle.assign(state("moment2") * beta2 + (gradient * level).square() * (1 - beta2), state("moment2"))
        # what the estimate takes of this parameter; the level's square is scaled, as it may be too small for float32
        decay, share = beta2**0.5, (1 - beta2**0.5) * self._rate(parameter, gradient)
        scale = level * (level / self._FIRST)
        self._products.append((gradient * (state("start") - parameter)).sum() * scale * share)
        paddle.assign(state("average") * decay + gradient * (scale * share), state("average"))
        self._sums.append(state("average").abs().sum())
        return state("moment1") / (state("moment2").sqrt() + level * self._settings.adam_epsilon)

    @override
    @paddle.no_grad()
    def step(self) -> None:
        """Update all parameters at the level so far, and estimate it anew."""
        super().step()
        if not self._sums:
            return
        numerator, level = (self._get_accumulator(name, self._keeper) for name in ("numerator", "level"))
        paddle.assign(numerator * self._settings.adam_beta2**0.5 + paddle.add_n(self._products).reshape([1]), numerator)
        estimate = numerator / paddle.add_n(self._sums).reshape([1]).clip(1e-30)
        paddle.assign(paddle.maximum(level, estimate), level)
        self._products, self._sums = [], []


class Lion(Custom):
    """Lion (Chen et al. 2023, algorithm 2): the sign of a mean of the gradients, so each weight moves by the rate."""

    _BETA2 = 0.99  # the paper's; that of Adam is too long for it

    @override
    def _shapes(self, parameter: Tensor) -> dict[str, tuple[list[int], str]]:
        return {"moment1": (parameter.shape, "float32")}

    @override
    def _change(self, parameter: Tensor, gradient: Tensor, state: Callable[[str], Tensor], step: int) -> Tensor:
        beta1, moment = self._settings.adam_beta1, state("moment1")
        change = (moment * beta1 + gradient * (1 - beta1)).sign()
        paddle.assign(moment * self._BETA2 + gradient * (1 - self._BETA2), moment)
        return change
