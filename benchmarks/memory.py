"""Measure the peak memory of a run, over that of its floor: a bare loop on the trained network alone.

    python -m benchmarks.memory                 # the embedded model
    python -m benchmarks.memory --model full    # Stable Diffusion 1's shape, 256 x 256, batch 1: needs 24 GB
    python -m benchmarks.memory --model xl      # a LoRA of Stable Diffusion XL's shape, 1024 x 1024: 24 GB, long
    python -m benchmarks.memory --cache         # memory and time of encoded class pictures

Each row is a process with its peak as Linux reports it. A run includes the start and the saved pipeline. The time of an
update is that between the last two.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import subjects
from dreambooth.data import randomness
from dreambooth.files import atomic
from dreambooth.system import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.subjects import Subject

STEPS = 3
FLOOR = """
import sys
from dreambooth.files import weight_files
from dreambooth.system import libraries
libraries.load(weight_files.READERS)
import paddle
from ppdiffusers import UNet2DConditionModel
folder, size, batch, steps = sys.argv[1], *map(int, sys.argv[2:])
unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
adamw = paddle.optimizer.AdamW(5e-6, parameters=unet.parameters())
latents = paddle.randn([batch, 4, size, size])
prompts = paddle.randn([batch, 77, unet.config.cross_attention_dim])
for _ in range(steps):
    prediction = unet(latents, paddle.to_tensor([500] * batch), prompts).sample
    paddle.nn.functional.mse_loss(prediction, latents).backward()
    adamw.step()
    adamw.clear_grad(set_to_zero=False)
"""
# a run that also writes when its updates end
TIMED = """
import sys, time
import train_dreambooth
from dreambooth.files import weight_files
from dreambooth.system import console, libraries
libraries.load(weight_files.READERS)
from dreambooth.training.updates import Updates
path = sys.argv.pop(1)
step = Updates.step
def timed(updates, *arguments):
    result = step(updates, *arguments)
    with open(path, "a") as file:
        file.write(f"{time.perf_counter()}\\n")
    return result
Updates.step = timed
console.run_command(train_dreambooth.main)
"""
RUNS = {
    "a run": (),
    "with --gradient_checkpointing": ("--gradient_checkpointing",),
    "with --early_update": ("--early_update",),
    "with --train_text_encoder": ("--train_text_encoder",),
    "with --lora_rank 4": ("--lora_rank", "4"),
    "with --lora_rank 4 --gradient_checkpointing": ("--lora_rank", "4", "--gradient_checkpointing"),
}
_XL_RUNS = ("with --lora_rank 4 --gradient_checkpointing",)  # what 24 GB allow


def measure_process(*arguments: object) -> tuple[float, float]:
    """Run a Python process; return its peak memory in GB and its time in seconds.

    Raises RuntimeError with the process's output where it fails.
    """
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as output:
        line = [sys.executable, *map(str, arguments)]
        process = subprocess.Popen(line, stdout=output, stderr=output, cwd=subjects.ROOT)
        # Read the peak while the process runs: the account of a finished process includes its parent's memory
        while process.poll() is None:
            peak = max(peak, _peak_bytes(process.pid))
            time.sleep(0.05)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(output.read().decode(errors="replace"))
    return peak / 1e9, time.perf_counter() - start


def _peak_bytes(process: int) -> int:
    """Return the peak memory of a running process, or 0 where it has just ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def compare_runs(subject: Subject, names: Sequence[str]) -> None:
    """Print the peak of each run, over that of the bare loop, and the time of an update.

    The bare loop of Stable Diffusion XL's shape would need more memory than any of its runs here.
    """
    rows, floor = [], None
    if not subject.is_xl:
        floor, _ = measure_process("-c", FLOOR, subject.folder, subject.size // subject.factor, subject.batch, STEPS)
        rows.append(["the bare loop", f"{floor:.2f}", "1.00", "–"])
    for name in names:
        peak, seconds = measure_run(subject, *RUNS[name])
        rows.append([name, f"{peak:.2f}", f"{peak / floor:.2f}" if floor else "–", f"{seconds:.2f}"])
    size, batch = subject.size, subject.batch
    print(f"{subject.name}, {size} x {size}, batch {batch}, {STEPS} steps and the pipeline saved\n")
    print(subjects.table(["", "peak, GB", "over the bare loop", "seconds an update"], rows))


def measure_run(subject: Subject, *more: str) -> tuple[float, float]:
    """Make a run; return its peak memory in GB and the time of an update in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        times, output = Path(folder) / "times.txt", Path(folder) / "output"
        peak, _ = measure_process("-c", TIMED, times, *subjects.command_line(subject, output, STEPS, *more))
        *_, last_but_one, last = map(float, times.read_text(encoding="ascii").split())
    return peak, last - last_but_one


def measure_cache(subject: Subject, counts: Sequence[int]) -> None:
    """Print memory and time of runs with one class picture, and with more of them."""
    subject = dataclasses.replace(subject, batch=1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, *counts):
            _write_noise(Path(folder), count, subject.size)
            prior = ["--with_prior_preservation", "--class_prompt", "a photo of a dog", "--class_data_dir", folder]
            with tempfile.TemporaryDirectory() as output:
                line = subjects.command_line(subject, output, 1, *prior, "--num_class_images", str(count))
                found.append((count, *measure_process("train_dreambooth.py", *line)))
    (_, first_peak, first_time), *_ = found
    rows = []
    for count, peak, seconds in found:
        more = ["–", "–"]
        if count > 1:
            more = [f"{(peak - first_peak) / (count - 1) * 1e3:.3f}", f"{(seconds - first_time) / (count - 1):.3f}"]
        rows.append([count, f"{peak:.2f}", *more])
    print(subjects.table(["class pictures", "peak, GB", "more than with one, MB a picture", "seconds a picture"], rows))


def _write_noise(folder: Path, count: int, size: int) -> None:
    """Write the missing ones of `count` pictures."""
    from PIL import Image

    for number in range(len(os.listdir(folder)), count):
        pixels = randomness.stream(0, "picture", number).integers(0, 256, (8, 8, 3)).astype("uint8")
        atomic.write_picture(folder / f"{number}.png", Image.fromarray(pixels).resize((size, size)))


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = subjects.make_parser("memory", __doc__)
    subjects.add_run_flags(parser)
    parser.add_argument("--runs", nargs="+", choices=RUNS, metavar="TEXT", help=f"some of: {', '.join(RUNS)}")
    parser.add_argument("--cache", action="store_true", help="measure the cache of encoded pictures instead")
    parser.add_argument(
        "--counts",
        nargs="+",
        type=int,
        default=[250, 500, 1000],
        metavar="N",
        help="with --cache: numbers of class pictures (default: 250 500 1000)",
    )
    arguments = parser.parse_args(argv)
    subject = subjects.subject_of(arguments, with_xl=not arguments.cache)
    if arguments.cache:
        measure_cache(subject, arguments.counts)
    else:
        compare_runs(subject, arguments.runs or (_XL_RUNS if subject.is_xl else tuple(RUNS)))


if __name__ == "__main__":
    console.run_command(main)
