"""Workers that share the examples of each update, on the cores of one machine."""

from __future__ import annotations

import contextlib
import functools
import mmap
from typing import TYPE_CHECKING

import numpy as np
import paddle

from dreambooth.system import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.connection import Connection

    from paddle import Tensor

    from dreambooth.data.concepts import Share

    Losses = Mapping[str, Tensor]
    Passes = Callable[[int, Share], Losses]  # (update, share of its examples) -> losses; it leaves the gradients


class Team:
    """The first process and its forks: each goes through its share of an update's examples, with the same weights.

    The forks begin when it is made: with the networks as they are then. The weights move into memory that all of them
    have, so the forks see every update of them; their gradients come back through such memory too. The sum of the
    gradients is in the order of the workers, and so the same in every run. Where a fork ends, for want of memory
    perhaps, the first process goes through its share.
    """

    def __init__(self, workers: int, parameters: Sequence[Tensor], passes: Passes) -> None:
        self._passes, self._parameters, self.workers = passes, parameters, workers
        self._stack = contextlib.ExitStack()
        self._forks: list[Connection | None] = []  # None: it is lost
        if workers > 1:
            try:
                # of the weights, and of each fork's gradients
                self._weights, *self._gradients = [_shared_tensors(parameters) for _ in range(workers)]
            except OSError as error:
                machine.Lost(f"a worker can't share memory ({error.strerror})").tell()
                self._forks = [None] * (workers - 1)
                return
            self._share_weights()
            for number in range(1, workers):
                self._forks.append(machine.begin(self._stack, functools.partial(self._serve, number)))

    def go_through(self, update: int) -> dict[str, Tensor]:
        """Go forward and backward through an update, and return its losses."""
        if any(self._forks):
            self._share_weights()
            for fork in self._forks:
                with contextlib.suppress(ConnectionError):  # noticed when its answer is missing
                    if fork is not None:
                        fork.send(update)
        losses = dict(self._passes(update, (0, self.workers)))
        for number in range(1, self.workers):
            for name, loss in self._join(update, number).items():
                losses[name] = losses[name] + loss if name in losses else paddle.to_tensor(loss)
        return losses

    def _share_weights(self) -> None:
        """Let each parameter have its values in the shared memory, unless it has; whatever replaced them moves too."""
        for shared, parameter in zip(self._weights, self._parameters):
            if parameter.data_ptr() != shared.data_ptr():
                _copy(parameter, shared)
                parameter.get_tensor()._share_data_with(shared.get_tensor())  # noqa: SLF001

    def _join(self, update: int, number: int) -> Mapping[str, float]:
        """Add the gradients of a worker's share to those of this process, and return its losses."""
        try:
            present, losses = machine.receive(self._forks[number - 1])
        except machine.Lost as lost:
            lost.tell()
            self._forks[number - 1] = None
            return self._go_through_instead(update, number)
        for parameter, gradient, is_there in zip(self._parameters, self._gradients[number - 1], present):
            if is_there:
                _add(parameter, gradient)
        return losses

    def _go_through_instead(self, update: int, number: int) -> Mapping[str, float]:
        """Go through a lost worker's share, and add its whole gradients, as the worker would have given them."""
        before = [None if each.grad is None else each.grad.clone() for each in self._parameters]
        for parameter in self._parameters:
            parameter.clear_gradient(set_to_zero=False)
        losses = {name: float(loss) for name, loss in self._passes(update, (number, self.workers)).items()}
        for parameter, gradient in zip(self._parameters, before):
            if gradient is not None:
                _add(parameter, gradient)
        return losses

    def close(self) -> None:
        """End the forks."""
        self._stack.close()

    def _serve(self, number: int, connection: Connection) -> None:
        """Go through a fork's share of each update that the first process asks for."""
        while True:
            try:
                update = connection.recv()
            except EOFError:
                return
            losses = self._passes(update, (number, self.workers))
            present = [parameter.grad is not None for parameter in self._parameters]
            for gradient, parameter in zip(self._gradients[number - 1], self._parameters):
                if parameter.grad is not None:
                    _copy(parameter.grad, gradient)
                    parameter.clear_gradient(set_to_zero=False)
            connection.send(((present, {name: float(loss) for name, loss in losses.items()}), None))


@paddle.no_grad()
def _add(parameter: Tensor, gradient: Tensor) -> None:
    """Add to a parameter's gradient."""
    if parameter.grad is None:
        parameter.grad = gradient.clone()
    else:
        parameter.grad.add_(gradient)


@paddle.no_grad()
def _copy(source: Tensor, target: Tensor) -> None:
    """Copy values into the memory that the target has."""
    paddle.assign(source, target)


def _shared_tensors(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Make a tensor of each parameter's shape, in memory that forks of this process have too."""
    sizes = [int(parameter.size) for parameter in parameters]
    numbers = np.frombuffer(mmap.mmap(-1, 4 * max(1, sum(sizes))), np.float32)
    parts = np.split(numbers[: sum(sizes)], np.cumsum(sizes)[:-1])
    arrays = [part.reshape(parameter.shape) for part, parameter in zip(parts, parameters)]
    return [paddle.Tensor(array, paddle.CPUPlace(), persistable=False, zero_copy=True) for array in arrays]
