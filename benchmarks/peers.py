"""Measure against torch and diffusers on the same shapes: a training step, and a drawing with the same solver.

    python -m benchmarks.peers --torch_python ./torch_env/bin/python
    python -m benchmarks.peers --torch_python ./torch_env/bin/python --model full

It needs another Python, with torch, diffusers and transformers. To make one:

    python3 -m venv ./torch_env && ./torch_env/bin/pip install torch diffusers transformers

The model is written for diffusers into a temporary folder, and loaded there. Then the two work in turn, each on all
cores while the other waits, so that a disturbance of the machine affects both. Two full-size trainings do not fit into
24 GB, so there each turn is a process of some steps. A step is forward, backward and AdamW in float32, ours that of a
whole run of train_dreambooth.py. A drawing is 25 steps of DPM-Solver++ with guidance, of several pictures at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import step, subjects
from benchmarks.subjects import Subject
from dreambooth.config.commands import DrawSettings
from dreambooth.drawing import sampling
from dreambooth.files import weight_files
from dreambooth.models import loading, pipeline_folder
from dreambooth.system import console, libraries, machine
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dreambooth.models.family.base import Family

DRAW_STEPS = 25
ROUNDS = 2
_AT_ONCE = 4  # pictures
OURS = "import sys; from benchmarks import peers; peers.print_steps(*sys.argv[1:])"
PROMPT = "a photo of a dog"
# runs in the other Python; answers each line on its input with a line of JSON
PEER = """
import json, sys, time
folder, part, cores, latents, batch = *sys.argv[1:3], *map(int, sys.argv[3:6])
import torch
torch.set_num_threads(cores)
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
pipeline = DiffusionPipeline.from_pretrained(folder, safety_checker=None)
pipeline.set_progress_bar_config(disable=True)
pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
denoiser = getattr(pipeline, part)
adamw = None
noisy, t = torch.randn(batch, 4, latents, latents), torch.full((batch,), 500)
hidden = torch.randn(batch, pipeline.tokenizer.model_max_length, denoiser.config.cross_attention_dim)

def step():
    global adamw
    adamw = adamw or torch.optim.AdamW(denoiser.parameters(), lr=5e-6, weight_decay=0.02)
    torch.nn.functional.mse_loss(denoiser(noisy, t, hidden).sample, noisy).backward()
    adamw.step()
    adamw.zero_grad()

def draw(size, steps, pictures, prompt):
    for first in range(0, pictures, 4):
        count = min(4, pictures - first)
        pipeline(prompt, height=size, width=size, num_inference_steps=steps, guidance_scale=7.5,
                 num_images_per_prompt=count)

print(json.dumps({"torch": torch.__version__}), flush=True)
for line in sys.stdin:
    name, *arguments = json.loads(line)
    start = time.perf_counter()
    {"step": step, "draw": draw}[name](*arguments)
    print(json.dumps(time.perf_counter() - start), flush=True)
"""


class Peer:
    """The other Python, which works when it is asked to."""

    def __init__(self, python: str, folder: Path, denoiser: str, subject: Subject) -> None:
        shape = subject.size // subject.factor, subject.batch
        line = [python, "-c", PEER, str(folder), denoiser, str(machine.cores()), *map(str, shape)]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the process
        try:
            self._process = subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output, text=True
            )
        except OSError as error:
            raise BadInput(f"--torch_python {python}: it can't be run ({error.strerror})") from None
        self.version: str = self._answer(python)["torch"]

    def ask(self, name: str, *arguments: int | str) -> float:
        """Let it work, and return its seconds."""
        assert self._process.stdin is not None
        print(json.dumps([name, *arguments]), file=self._process.stdin, flush=True)
        seconds: float = self._answer(name)
        return seconds

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._output.close()

    def _answer(self, what: str) -> Any:  # noqa: ANN401  JSON
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._output.seek(0)
            words = self._output.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise BadInput(f"--torch_python, {what}: {words[-1]}")
        return json.loads(line)


def time_blocks(subject: Subject, steps: int, start_peer: Callable[[], Peer]) -> list[tuple[float, float]]:
    """Let the peer make some steps in a process, and then us, several times; return (theirs, ours) in seconds."""
    found: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        with contextlib.closing(start_peer()) as peer:
            theirs = [peer.ask("step") for _ in range(step.WARM_UP + steps)][step.WARM_UP :]
        done = subprocess.run(
            [sys.executable, "-c", OURS, json.dumps(dataclasses.asdict(subject), default=str), str(steps)],
            cwd=subjects.ROOT, env=machine.environment(), check=True, capture_output=True, text=True,
        )  # fmt: skip
        found += zip(theirs, json.loads(done.stdout.splitlines()[-1]))
    return found


def print_steps(subject: str, steps: str) -> None:
    """Make a run, and print the seconds of its steps: in a process of time_blocks()."""
    facts = json.loads(subject)
    watch = _Alone(int(steps))
    step.time_run(Subject(**{**facts, "folder": Path(facts["folder"])}), watch)
    print(json.dumps(watch.steps[step.WARM_UP :]))


class _Alone(step.Stopwatch):
    """The times of a run's steps, with nothing between them."""

    @override
    def make_floor(self) -> float:
        return 0.0


def time_steps(subject: Subject, steps: int, peer: Peer) -> list[tuple[float, float]]:
    """Make a run, and let the peer make a step before each of the run's; return (theirs, ours) in seconds."""

    class InTurn(step.Stopwatch):
        @override
        def make_floor(self) -> float:
            return peer.ask("step")

    return step.time_run(subject, InTurn(steps)).pairs()


def time_drawings(family: Family, size: int, times: int, peer: Peer) -> list[tuple[float, float]]:
    """Draw with the peer and with us in turn; return (theirs, ours) in seconds a picture."""
    count = _AT_ONCE * family.split.workers if machine.is_small(family.denoiser.parameters()) else 1

    def draw_both(steps: int) -> tuple[float, float]:
        settings = DrawSettings(0, "picture", (size, size), steps, scheduler="dpmsolver++")
        theirs = peer.ask("draw", size, steps, count, PROMPT)
        start = time.perf_counter()
        list(sampling.draw(family, settings, sampling.requests_for([PROMPT], count)))
        return theirs / count, (time.perf_counter() - start) / count

    draw_both(2)  # to warm up
    return [draw_both(DRAW_STEPS) for _ in range(times)]


@contextlib.contextmanager
def _for_diffusers(subject: Subject) -> Iterator[Path]:
    """Yield a folder with the subject's model as diffusers loads it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        line = ["-m", "dreambooth.export", "--model_path", subject.folder, "--format", "diffusers", "--output", path]
        # a process of its own gives its memory back
        subprocess.run([sys.executable, *map(str, line)], cwd=subjects.ROOT, check=True, stdout=subprocess.DEVNULL)
        yield path


def _row(what: str, pairs: Sequence[tuple[float, float]]) -> list[str]:
    theirs, ours = (subjects.median(times) for times in zip(*pairs))
    return [what, f"{ours:.3f}", f"{theirs:.3f}", subjects.ratio(pairs, digits=2), str(len(pairs))]


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = subjects.make_parser("peers", __doc__)
    subjects.add_run_flags(parser)
    parser.add_argument("--torch_python", metavar="PATH", help="a Python with torch, diffusers and transformers")
    parser.add_argument("--steps", type=int, metavar="N", help=f"steps to time (default: 30; full {ROUNDS} times 3)")
    parser.add_argument("--drawings", type=int, metavar="N", help="drawings to time (default: 5; full 1)")
    parser.add_argument("--draw_size", type=int, metavar="N", help="pixels a side of a drawing (default: 64; full 512)")
    arguments = parser.parse_args(argv)
    if not arguments.torch_python:
        raise BadInput(
            "--torch_python: give a Python with torch, diffusers and transformers; to make one:"
            " python3 -m venv ./torch_env && ./torch_env/bin/pip install torch diffusers transformers"
        )
    subject = subjects.subject_of(arguments)
    full = subject.is_full
    size = arguments.draw_size or (512 if full else subject.size)
    libraries.load(weight_files.READERS)
    with _for_diffusers(subject) as folder:
        denoiser = pipeline_folder.check_index(subject.folder, pipeline_folder.read_index(subject.folder)).denoiser
        start_peer = functools.partial(Peer, arguments.torch_python, folder, denoiser, subject)
        # the full size first, while the most memory is free
        steps = time_blocks(subject, arguments.steps or 3, start_peer) if full else []
        family = loading.load_family(loading.Source(str(subject.folder)))
        with contextlib.closing(start_peer()) as peer:
            drawings = time_drawings(family, size, arguments.drawings or (1 if full else 5), peer)
            version = peer.version
            del family
            if not full:
                steps = time_steps(subject, arguments.steps or 30, peer)
    rows = [
        _row(f"step, {subject.name}, {subject.size} x {subject.size}, batch {subject.batch}", steps),
        _row(f"picture, {subject.name}, {size} x {size}, {DRAW_STEPS} steps", drawings),
    ]
    print(subjects.table(["", "ours, s", f"torch {version}, s", "ratio (quartiles)", "times"], rows))


if __name__ == "__main__":
    console.run_command(main)
