"""Measure a training step: its time over a bare loop's, and the share of the machine's limit that it reaches.

    python -m benchmarks.step                   # the embedded model, batch 4
    python -m benchmarks.step --model full      # Stable Diffusion 1's shape, 256 x 256, batch 1: needs 24 GB, minutes

It makes a whole run of train_dreambooth.py. A step of the bare loop precedes each step of the run: forward, backward
and the optimizer on the same network and tensors, in the same process. So a disturbance of the machine affects both.
With --lora_rank, the bare loop trains the whole network, with a second AdamW.

The limit is the speed of a large matrix product on the same cores. The operations of a forward pass are counted: two
for each multiplication in a linear layer, a convolution or an attention. A backward pass has twice as many.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple, get_args
from unittest import mock

from benchmarks import subjects
from dreambooth.config.learning_sections import OptimizerName
from dreambooth.files import weight_files
from dreambooth.models import loading
from dreambooth.system import console, libraries, machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from paddle import Tensor
    from paddle.optimizer import AdamW

    from benchmarks.subjects import Subject
    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Network
    from dreambooth.training.team import Team
    from dreambooth.training.updates import Updates

    Inputs = tuple[Tensor, Tensor, Mapping[str, Tensor]]  # x_t, t, conditioning

WARM_UP = 2
_SIDE = 2048  # of the large matrices


class _AllTimed(Exception):
    """The end of a run whose steps are all timed."""


class Stopwatch:
    """The times of a run's steps, and of a step of the bare loop before each."""

    family: Family  # set when the run loads its model
    updates: Updates  # set when the run makes its optimizer

    def __init__(self, steps: int) -> None:
        self.count = steps + WARM_UP
        self.steps: list[float] = []
        self.floors: list[float] = []
        self.passes: list[float] = []  # the forward and backward passes of each step
        self.own_inputs: Inputs | None = None  # of this process, in the last step
        self.inputs: Inputs | None = None  # of the whole batch
        self.workers = 1  # which have as many examples as this process
        self._start: float | None = None
        self._adamw: AdamW | None = None

    def begin_step(self) -> None:
        """Note the time of the step before, and make a step of the bare loop."""
        now = time.perf_counter()
        if self._start is not None:
            self.steps.append(now - self._start)
        if len(self.steps) == self.count:
            raise _AllTimed
        if self.own_inputs is not None:
            self.inputs = self._whole(self.own_inputs)
            self.floors.append(self.make_floor())
        self._start = time.perf_counter()

    def _whole(self, own: Inputs) -> Inputs:
        """Repeat a share of the batch to as many examples as the batch has."""
        import paddle

        noisy, t, conditioning = own
        rows = {name: paddle.concat([tensor] * self.workers) for name, tensor in conditioning.items()}
        return paddle.concat([noisy] * self.workers), paddle.concat([t] * self.workers), rows

    def make_floor(self) -> float:
        """Make what each step is compared with, and return its seconds."""
        start = time.perf_counter()
        if self.family.adapters:
            self.make_whole_step()
        else:
            self.make_bare_step(self.updates.optimizers[0])
        return time.perf_counter() - start

    def make_bare_step(self, adamw: AdamW) -> None:
        """Make a step of the bare loop with the inputs of the last step."""
        import paddle.nn.functional as F

        assert self.inputs is not None
        noisy, t, conditioning = self.inputs
        F.mse_loss(self.family.denoiser(noisy, t, conditioning["hidden"]).sample, noisy).backward()
        adamw.step()
        adamw.clear_grad(set_to_zero=False)

    def make_whole_step(self) -> None:
        """Make a step of the bare loop on the whole network, without the LoRA."""
        import paddle

        weights = self.family.denoiser.parameters()
        with self.family.adapters.off():
            for weight in weights:
                weight.stop_gradient = False
            self._adamw = self._adamw or paddle.optimizer.AdamW(1e-9, parameters=weights)
            self.make_bare_step(self._adamw)
            for weight in weights:
                weight.stop_gradient = True

    def operations(self) -> float:
        """Count the operations of a step's forward and backward passes on the denoiser."""
        import paddle

        assert self.inputs is not None
        noisy, t, conditioning = self.inputs
        with paddle.no_grad(), counted(self.family.denoiser) as counts:
            self.family.predict(noisy, t, conditioning)
        return 3 * sum(counts)

    def pairs(self) -> list[tuple[float, float]]:
        """Return (floor, step) of each step that has a floor, without the first steps."""
        return list(zip(self.floors[WARM_UP - 1 :], self.steps[WARM_UP:]))


@contextlib.contextmanager
def _attached(stopwatch: Stopwatch) -> Iterator[None]:
    """Give the stopwatch the model, the optimizer and the inputs of a run, and the start of each step."""
    from dreambooth.training.team import Team
    from dreambooth.training.updates import Updates

    load, go_through, make_updates = loading.load_family, Team.go_through, Updates.__init__

    def load_and_keep(*arguments: Any, **options: Any) -> Family:
        stopwatch.family = family = load(*arguments, **options)
        predict = family.predict

        def predict_and_keep(noisy: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
            stopwatch.own_inputs = noisy.detach(), t, {name: each.detach() for name, each in conditioning.items()}
            return predict(noisy, t, conditioning)

        setattr(family, "predict", predict_and_keep)  # noqa: B010  mypy forbids to assign to a method
        return family

    def time_and_go(self: Team, update: int) -> dict[str, Tensor]:
        stopwatch.workers = self.workers
        stopwatch.begin_step()
        start = time.perf_counter()
        losses = go_through(self, update)
        float(losses["loss"])
        stopwatch.passes.append(time.perf_counter() - start)
        return losses

    def make_and_keep(self: Updates, *arguments: Any) -> None:
        stopwatch.updates = self
        make_updates(self, *arguments)

    with (
        mock.patch.object(loading, "load_family", load_and_keep),
        mock.patch.object(Team, "go_through", time_and_go),
        mock.patch.object(Updates, "__init__", make_and_keep),
    ):
        yield


@contextlib.contextmanager
def counted(network: Network) -> Iterator[list[float]]:
    """Yield a list to which each layer of a network adds the operations of its forward pass."""
    from paddle import nn

    counts: list[float] = []
    hooks = []

    def count(layer: Network, inputs: Sequence[Tensor], output: Tensor) -> None:
        weights = layer.weight.shape
        of_each = math.prod(weights[1:]) if isinstance(layer, nn.Conv2D) else weights[0]
        counts.append(2.0 * math.prod(output.shape) * of_each)

    def count_attention(layer: Network) -> None:
        rows: list[int] = []

        def of_queries(_: Network, inputs: Sequence[Tensor], output: Tensor) -> None:
            rows[:] = [math.prod(output.shape)]

        def of_keys(_: Network, inputs: Sequence[Tensor], output: Tensor) -> None:
            counts.append(4.0 * rows[0] * output.shape[1])  # each query with each key, and their values

        hooks.append(layer.to_q.register_forward_post_hook(of_queries))
        hooks.append(layer.to_k.register_forward_post_hook(of_keys))

    for layer in network.sublayers():
        if isinstance(layer, (nn.Conv2D, nn.Linear)):
            hooks.append(layer.register_forward_post_hook(count))
        elif hasattr(layer, "to_q") and hasattr(layer, "to_k"):
            count_attention(layer)
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def measure_limit(split: machine.Split) -> float:
    """Return the operations in a second of large matrix products on all cores of a split."""
    import paddle

    def multiply(_: int) -> float:
        # made here: a fork shares no memory with the others
        matrix, best = paddle.ones([_SIDE, _SIDE]), math.inf
        for _ in range(12):
            start = time.perf_counter()
            paddle.matmul(matrix, matrix)
            best = min(best, time.perf_counter() - start)
        return 2.0 * _SIDE**3 / best

    return sum(machine.shared(multiply, range(split.workers), split.workers))


class Measured(NamedTuple):
    """The figures of a run, in seconds and operations."""

    pairs: list[tuple[float, float]]  # (floor, step)
    speed: float  # operations in a second of the forward and backward passes
    limit: float


def time_run(subject: Subject, stopwatch: Stopwatch, *more: str) -> Stopwatch:
    """Make a run, time its steps, and return the stopwatch."""
    import train_dreambooth

    libraries.load(weight_files.READERS)
    with tempfile.TemporaryDirectory() as output, contextlib.redirect_stdout(io.StringIO()), _attached(stopwatch):
        line = subjects.command_line(subject, output, stopwatch.count + 1, *more)
        with contextlib.suppress(_AllTimed):
            train_dreambooth.main(line)
    return stopwatch


def measure(subject: Subject, steps: int, *more: str) -> Measured:
    """Make a run, and compare its steps with the bare loop and with the machine's limit."""
    stopwatch = time_run(subject, Stopwatch(steps), *more)
    speed = stopwatch.operations() / subjects.median(stopwatch.passes[WARM_UP:])
    return Measured(stopwatch.pairs(), speed, measure_limit(stopwatch.family.split))


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = subjects.make_parser("step", __doc__)
    parser.add_argument("--steps", type=int, metavar="N", help="steps to time (default: 60; full 8)")
    subjects.add_run_flags(parser)
    parser.add_argument("--lora_rank", type=int, metavar="N", help="rank of a LoRA (default: no LoRA)")
    parser.add_argument(
        "--optimizer", default="adamw", choices=get_args(OptimizerName), help="the optimizer (default: adamw)"
    )
    arguments = parser.parse_args(argv)
    subject = subjects.subject_of(arguments)
    more = ["--optimizer", arguments.optimizer] if arguments.optimizer != "adamw" else []
    more += ["--lora_rank", str(arguments.lora_rank)] if arguments.lora_rank else []
    pairs, speed, limit = measure(subject, arguments.steps or (8 if subject.is_full else 60), *more)
    floor, step = (subjects.median(times) for times in zip(*pairs))
    print(subjects.table(
        [
            "model", "size", "batch", "floor, s", "step, s", "ratio (quartiles)", "steps", "GF/s", "limit, GF/s",
            "share of the limit",
        ],
        [[
            " ".join([subject.name, *more]), f"{subject.size} x {subject.size}", subject.batch, f"{floor:.3f}",
            f"{step:.3f}", subjects.ratio(pairs), len(pairs), f"{speed / 1e9:.0f}",
            f"{limit / 1e9:.0f}", f"{speed / limit:.2f}",
        ]],
    ))  # fmt: skip


if __name__ == "__main__":
    console.run_command(main)
