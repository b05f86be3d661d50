"""Short runs of the embedded model in processes of their own, on the card and on the CPU, and their comparison."""

from __future__ import annotations

import itertools
import math
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np
from PIL import Image

from dreambooth.config.learning_sections import OptimizerName
from dreambooth.files.safetensors import Reader
from dreambooth.run.trials import findings, operations
from dreambooth.run.trials.findings import Finding
from dreambooth.system import machine, processes
from dreambooth.system.devices import cards

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from dreambooth.system.types import Array

_ROOT = Path(__file__).parents[3]
_SECONDS = 300  # that one run gets
_AT_ONCE = 2  # runs: a process has about a gigabyte of the card, which may be small
TF32 = "NVIDIA_TF32_OVERRIDE"  # 0: no library of NVIDIA rounds float32 to TF32's 10 bits, as new cards do otherwise
_PROMPT = "a photo of sks dog"
METHODS = {
    "UNet": ("--learning_rate", "4.5e-4"),
    "UNet and text encoder": ("--learning_rate", "4.5e-4", "--train_text_encoder"),
    "LoRA": ("--learning_rate", "2e-3", "--lora_rank", "4"),
}


class Precision(NamedTuple):
    """How runs are made in a precision, and the bounds of their differences to those in float32 on the CPU."""

    flags: tuple[str, ...]
    environment: Mapping[str, str]
    loss: float  # the most, as a part of the loss
    weights: float  # the mean over the weights, as a part of the mean by which they moved


# Where a gradient is nearly nought, an optimizer may move its weight by the whole rate in either direction, so the mean
# counts. On a CPU, an error of 1e-5 in every product and convolution, as a card's fast ones make it, changed the loss
# by 1.5e-5 and the weights by 0.003. With operands and results rounded as the precision would, these were 9e-4 and 0.03
# for 10 bits, and 5e-3 and 0.18 for 7 bits. Another seed changes the weights by more than 2.
PRECISIONS = {
    "float32": Precision((), {TF32: "0"}, 1e-4, 0.01),
    "tf32": Precision((), {}, 5e-3, 0.12),
    "float16": Precision(("--mixed_precision", "fp16"), {}, 5e-3, 0.12),
    "bfloat16": Precision(("--mixed_precision", "bf16"), {}, 3e-2, 0.5),
}
_LEVELS = 1.0  # of 255, by which a drawing may differ in the mean


class Case(NamedTuple):
    """A run: what it trains, by which optimizer, in which precision."""

    method: str
    optimizer: str
    precision: str = "float32"

    @property
    def name(self) -> str:
        """The method and the optimizer."""
        return f"{self.method}, {self.optimizer}"


class Outcome(NamedTuple):
    """What a run of two updates came to."""

    folder: Path
    losses: list[float]
    weights: dict[str, Array]
    moved: float  # the mean over the weights of their change in the second update


class Place:
    """Where runs are made: the card, the CPU, or the CPU by the oldest code of its library on one core."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name, self._folder = name, folder
        self._environment = {**machine.environment(), **environment}

    def train(self, case: Case, *flags: str, is_kept: bool = False) -> Outcome:
        """Make a run of two updates, with a checkpoint of each."""
        output = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self._folder))
        precision = PRECISIONS[case.precision]
        line = [
            *("train_dreambooth.py", "--pretrained_model_name_or_path", "miniworld/model"),
            *("--instance_data_dir", "dream_image", "--instance_prompt", _PROMPT, "--output_dir", str(output)),
            *("--resolution", "64", "--train_batch_size", "2", "--max_train_steps", "2", "--save_steps", "1"),
            *("--seed", "0", "--optimizer", case.optimizer, *METHODS[case.method], *precision.flags, *flags),
        ]
        self._run(line, precision.environment)
        weights = read_weights(output / "checkpoint-2")
        before = output / "checkpoint-1"  # which a resumed run does not write
        moved = mean_difference(weights, read_weights(before)) if before.is_dir() else math.nan
        if moved == 0:
            raise RuntimeError("the second update moved no weight")
        outcome = Outcome(output, read_losses(output / "logs"), weights, moved)
        if not is_kept:
            shutil.rmtree(output)
        return outcome

    def draw(self, model: Path) -> Array:
        """Draw a picture with a result, and return its pixels."""
        output = self._folder / f"{self.name}.png"
        line = ["infer.py", "--model_path", str(model), "--prompt", _PROMPT, "--output", str(output)]
        self._run([*line, "--num_inference_steps", "10", "--scheduler", "ddim"], PRECISIONS["float32"].environment)
        with Image.open(output) as picture:
            return np.asarray(picture.convert("RGB")).astype(np.float32)

    def _run(self, line: Sequence[str], environment: Mapping[str, str]) -> None:
        own = {name: value for name, value in self._environment.items() if name != TF32}
        done = subprocess.run(
            [sys.executable, *line],
            cwd=_ROOT,
            env={**own, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{line[0]} ended with {done.returncode}: {done.stderr}")


def check_runs(folder: Path) -> Iterator[Finding]:
    """Compare short runs on the card with those on the CPU, or those on the CPU with its oldest code on one core."""
    if processes.is_on_gpu():
        place, other = Place("gpu:0", folder, {}), Place("cpu", folder, {"CUDA_VISIBLE_DEVICES": ""})
        precisions = [each for each in PRECISIONS if can_compute(each)]
    else:
        oldest = {"MKL_DEBUG_CPU_TYPE": "4", "OMP_NUM_THREADS": "1"}
        place, other, precisions = Place("cpu", folder, {}), Place("old", folder, oldest), ["float32"]
    # an optimizer computes in float32 whatever the precision is
    cases = [Case(*each) for each in itertools.product(METHODS, get_args(OptimizerName))]
    cases += [Case(method, "adamw", precision) for precision in precisions[1:] for method in METHODS]
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        expected: dict[str, Future[Outcome]] = {}
        runs: list[Future[Outcome]] = []
        for case in cases:
            is_kept = case == cases[0]
            if case.name not in expected:
                expected[case.name] = pool.submit(other.train, case, is_kept=is_kept)
            runs.append(pool.submit(place.train, case, is_kept=is_kept))
        first = runs[0]
        for case in cases:
            yield from compare_runs(case, place.name, runs.pop(0), expected[case.name])
        yield from check_resume(cases[0], place, first)
        yield from check_drawing(place, other, expected[cases[0].name])
    finally:
        pool.shutdown(cancel_futures=True)


def compare_runs(case: Case, place: str, run: Future[Outcome], expected: Future[Outcome]) -> Iterator[Finding]:
    """Compare the losses and the weights of a run with those that are expected."""
    bounds = PRECISIONS[case.precision]
    try:
        found, other = run.result(), expected.result()
        losses = [abs(one - two) / abs(two) for one, two in zip(found.losses, other.losses, strict=True)]
        weights = mean_difference(found.weights, other.weights) / other.moved
    except Exception as error:
        yield findings.failed(case.name, place, case.precision, error)
        return
    yield Finding(f"{case.name}: loss", place, case.precision, float(np.max(losses)), bounds.loss)
    yield Finding(f"{case.name}: weights", place, case.precision, weights, bounds.weights)


def check_resume(case: Case, place: Place, run: Future[Outcome]) -> Iterator[Finding]:
    """Resume a run from its first checkpoint: the same bits on the CPU, while a card may add in another order."""
    check, bound = f"{case.method}: resumed", 0.0 if place.name == "cpu" else PRECISIONS["float32"].weights
    try:
        whole = run.result()
        resumed = place.train(case, "--resume_from_checkpoint", str(whole.folder / "checkpoint-1"))
        weights = mean_difference(resumed.weights, whole.weights) / whole.moved
    except Exception as error:
        yield findings.failed(check, place.name, case.precision, error)
        return
    yield Finding(check, place.name, case.precision, weights, bound)


def check_drawing(place: Place, other: Place, run: Future[Outcome]) -> Iterator[Finding]:
    """Draw with the result of one run in both places; the difference is in levels of 255."""
    check = "drawing"
    try:
        model = run.result().folder
        pictures = [each.draw(model) for each in (place, other)]
    except Exception as error:
        yield findings.failed(check, place.name, "float32", error)
        return
    if min(each.std() for each in pictures) < 1:
        yield findings.failed(check, place.name, "float32", "the picture has one colour")
        return
    yield Finding(check, place.name, "float32", float(np.abs(pictures[0] - pictures[1]).mean()), _LEVELS)


def read_weights(checkpoint: Path) -> dict[str, Array]:
    """Read the weights of a checkpoint's parts."""
    return {
        f"{path.parent.name}.{name}": np.array(weights)
        for path in sorted(checkpoint.glob("*/*.safetensors"))
        for name, weights in Reader(path).items()
    }


def read_losses(logs: Path) -> list[float]:
    """Read the loss of each update from a run's log."""
    from visualdl import LogReader

    [log] = logs.glob("vdlrecords.*.log")
    return [float(each.value) for each in LogReader(file_path=str(log)).get_data("scalar", "training/loss")]


def mean_difference(one: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """Return the mean over all weights of their difference; infinite where they are not the same weights."""
    if one.keys() != other.keys() or not one:
        return math.inf
    total = sum(float(np.abs(one[name] - other[name]).sum(dtype=np.float64)) for name in one)
    return total / sum(each.size for each in one.values())


def can_compute(precision: str) -> bool:
    """Check whether the card has a precision: TF32 since compute capability 8.0."""
    if precision == "tf32":
        return cards.capability() >= (8, 0)
    return not cards.reason_against(operations.HALF.get(precision, "no"))
