"""Measure the time of a training step, over its floor: forward, backward and AdamW on the same network and tensors.

    python -m benchmarks.step                   # the embedded model, batch 4
    python -m benchmarks.step --model full      # Stable Diffusion 1's shape, 256 x 256, batch 1: needs 24 GB, minutes

It makes a whole run of train_dreambooth.py. A step of the bare loop precedes each step of the run: in the same process,
on the same network, with the same optimizer. So a disturbance of the machine affects both. With --lora_rank, the bare
loop trains the whole network, with a second AdamW.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks import subjects
from dreambooth.data.batches import Batches
from dreambooth.files import weight_files
from dreambooth.models import loading
from dreambooth.system import console, libraries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from paddle import Tensor
    from paddle.optimizer import AdamW

    from benchmarks.subjects import Subject
    from dreambooth.data.concepts import MicroBatch
    from dreambooth.models.families.base import Family
    from dreambooth.training.updates import Updates

WARM_UP = 2


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
        self.inputs: tuple[Tensor, Tensor, Mapping[str, Tensor]] | None = None  # of the last step: x_t, t, conditioning
        self._start: float | None = None
        self._adamw: AdamW | None = None

    def begin_step(self) -> None:
        """Note the time of the step before, and make a step of the bare loop."""
        now = time.perf_counter()
        if self._start is not None:
            self.steps.append(now - self._start)
        if len(self.steps) == self.count:
            raise _AllTimed
        if self.inputs is not None:
            start = time.perf_counter()
            if self.family.adapters:
                self.make_whole_step()
            else:
                self.make_bare_step(self.updates.optimizer)
            self.floors.append(time.perf_counter() - start)
        self._start = time.perf_counter()

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

    def pairs(self) -> list[tuple[float, float]]:
        """Return (floor, step) of each step that has a floor, without the first steps."""
        return list(zip(self.floors[WARM_UP - 1 :], self.steps[WARM_UP:]))


@contextlib.contextmanager
def _attached(stopwatch: Stopwatch) -> Iterator[None]:
    """Give the stopwatch the model, the optimizer and the inputs of a run, and the start of each step."""
    from dreambooth.training.updates import Updates

    load, micro_batch, make_updates = loading.load_family, Batches.micro_batch, Updates.__init__

    def load_and_keep(*arguments: Any, **options: Any) -> Family:
        stopwatch.family = family = load(*arguments, **options)
        predict = family.predict

        def predict_and_keep(noisy: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
            stopwatch.inputs = noisy.detach(), t, {name: tensor.detach() for name, tensor in conditioning.items()}
            return predict(noisy, t, conditioning)

        setattr(family, "predict", predict_and_keep)  # noqa: B010  mypy forbids to assign to a method
        return family

    def time_and_get(self: Batches, update: int, micro: int) -> MicroBatch:
        if micro == 0:
            stopwatch.begin_step()
        return micro_batch(self, update, micro)

    def make_and_keep(self: Updates, *arguments: Any) -> None:
        stopwatch.updates = self
        make_updates(self, *arguments)

    with (
        mock.patch.object(loading, "load_family", load_and_keep),
        mock.patch.object(Batches, "micro_batch", time_and_get),
        mock.patch.object(Updates, "__init__", make_and_keep),
    ):
        yield


def measure(subject: Subject, steps: int, *more: str) -> list[tuple[float, float]]:
    """Make a run; return (floor, step) of its steps, in seconds."""
    import train_dreambooth

    libraries.load(weight_files.READERS)
    stopwatch = Stopwatch(steps)
    with tempfile.TemporaryDirectory() as output, contextlib.redirect_stdout(io.StringIO()), _attached(stopwatch):
        line = subjects.command_line(subject, output, steps + WARM_UP + 1, *more)
        with contextlib.suppress(_AllTimed):
            train_dreambooth.main(line)
    return stopwatch.pairs()


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = subjects.make_parser("step", __doc__)
    parser.add_argument("--steps", type=int, metavar="N", help="steps to time (default: 60; full 8)")
    subjects.add_run_flags(parser)
    parser.add_argument("--lora_rank", type=int, metavar="N", help="rank of a LoRA (default: no LoRA)")
    arguments = parser.parse_args(argv)
    subject = subjects.subject_of(arguments)
    more = ("--lora_rank", str(arguments.lora_rank)) if arguments.lora_rank else ()
    pairs = measure(subject, arguments.steps or (8 if subject.is_full else 60), *more)
    floor, step = (subjects.median(times) for times in zip(*pairs))
    ratios = sorted(step / floor for floor, step in pairs)
    quarter = len(ratios) // 4
    print(subjects.table(
        ["model", "size", "batch", "floor, s", "step, s", "ratio (quartiles)", "steps"],
        [[
            " ".join([subject.name, *more]), f"{subject.size} x {subject.size}", subject.batch, f"{floor:.3f}",
            f"{step:.3f}", f"{subjects.median(ratios):.3f} ({ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f})",
            len(pairs),
        ]],
    ))  # fmt: skip


if __name__ == "__main__":
    console.run_command(main)
