"""The base of the optimizers that Paddle lacks: Paddle 2.6.2 and 3.3.1 have none of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import paddle
from paddle.optimizer import Optimizer

from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Callable

    from paddle import Tensor
    from paddle.optimizer.lr import LRScheduler

    from dreambooth.config.learning_sections import OptimizerSettings

Groups = Sequence[Mapping[str, Any]]  # of parameters, each with a factor on the learning rate


class Custom(Optimizer):
    """An optimizer with named accumulators, and the update of one parameter."""

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

    def _level(self, parameter: Tensor) -> Tensor | float:
        """Return the factor on the learning rate."""
        return 1.0

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

    def _rate(self, parameter: Tensor, gradient: Tensor) -> Any:  # noqa: ANN401  a number or a tensor
        """Return the learning rate of a parameter's group."""
        return self._create_param_lr((parameter, gradient))

    @paddle.no_grad()
    def _append_optimize_op(self, block: object, pair: Sequence[Tensor] | dict[str, Any]) -> None:
        parameter, gradient = self._update_param_group(pair) if isinstance(pair, dict) else pair

        def state(name: str) -> Tensor:
            return self._get_accumulator(name, parameter)

        step = self._count(parameter, state("steps"))
        paddle.assign(state("steps") + 1, state("steps"))
        change = self._change(parameter, gradient.astype("float32"), state, step)
        rate = self._rate(parameter, gradient) * self._level(parameter)
        # a decay apart from the gradient, as in AdamW (Loshchilov & Hutter 2019)
        kept = 1 - rate * self._settings.adam_weight_decay
        paddle.assign(parameter * kept - rate * change, parameter)  # in its place, which worker processes share
