"""Measure the start: the time of --help, and of the first training step over the bare import of the libraries.

python -m benchmarks.startup
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from benchmarks import subjects
from dreambooth.system import console

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPORTS = """
import zlib
import paddle
from ppdiffusers import DDPMScheduler, StableDiffusionPipeline
from paddlenlp.transformers import CLIPTextModel
from visualdl import LogWriter
"""
# a run that ends at the start of its first step
FIRST_STEP = """
import os, sys
import train_dreambooth
from dreambooth.data.batches import Batches
Batches.micro_batch = lambda *step: os._exit(0)
train_dreambooth.main(sys.argv[1:])
"""


def time_process(*arguments: str) -> float:
    """Run a Python process; return its time in seconds.

    Raises RuntimeError with the process's error output where it fails.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=subjects.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - start


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = subjects.make_parser("startup", __doc__)
    parser.add_argument("--times", type=int, default=5, metavar="N", help="repetitions, in turn (default: 5)")
    arguments = parser.parse_args(argv)
    subject = dataclasses.replace(subjects.subject_of(arguments), batch=1)
    helps, imports, firsts = [], [], []
    for _ in range(arguments.times):
        helps.append(time_process("train_dreambooth.py", "--help"))
        imports.append(time_process("-c", IMPORTS))
        with tempfile.TemporaryDirectory() as output:
            firsts.append(time_process("-c", FIRST_STEP, *subjects.command_line(subject, output, 1)))
    ratio = subjects.median([first / bare for first, bare in zip(firsts, imports)])
    rows = [
        ["python train_dreambooth.py --help", f"{subjects.median(helps):.2f}", ""],
        ["bare import of the libraries", f"{subjects.median(imports):.2f}", "1.00"],
        [f"start to first step, {subject.name}", f"{subjects.median(firsts):.2f}", f"{ratio:.2f}"],
    ]
    print(subjects.table(["", "seconds", "over the bare import"], rows))


if __name__ == "__main__":
    console.run_command(main)
