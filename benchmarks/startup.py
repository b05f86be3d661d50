"""How long until something happens: --help, and the first training step over the bare import of the libraries.

python -m benchmarks.startup
"""

import subprocess
import sys
import tempfile
import time

from benchmarks import subjects
from dreambooth.system import console

IMPORTS = """
import zlib
import paddle
from ppdiffusers import DDPMScheduler, StableDiffusionPipeline
from paddlenlp.transformers import CLIPTextModel
from visualdl import LogWriter
"""
# a run that ends when its first step begins
FIRST_STEP = """
import os, sys
import train_dreambooth
from dreambooth.data.batches import Batches
Batches.micro_batch = lambda *step: os._exit(0)
train_dreambooth.main(sys.argv[1:])
"""


def seconds(*arguments):
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=subjects.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - begun


def main(argv):
    parser = subjects.parser("startup", __doc__)
    parser.add_argument("--times", type=int, default=5, metavar="N", help="how often, in turn (default: 5)")
    arguments = parser.parse_args(argv)
    folder, size = subjects.folder_of(arguments.model), subjects.size_of(arguments.model)
    helps, imports, firsts = [], [], []
    for _ in range(arguments.times):
        helps.append(seconds("train_dreambooth.py", "--help"))
        imports.append(seconds("-c", IMPORTS))
        with tempfile.TemporaryDirectory() as output:
            firsts.append(seconds("-c", FIRST_STEP, *subjects.run_flags(folder, output, size, 1, 1)))
    ratio = subjects.median([first / bare for first, bare in zip(firsts, imports)])
    rows = [
        ["python train_dreambooth.py --help", f"{subjects.median(helps):.2f}", ""],
        ["bare import of the libraries", f"{subjects.median(imports):.2f}", "1.00"],
        [f"start to first step, {arguments.model}", f"{subjects.median(firsts):.2f}", f"{ratio:.2f}"],
    ]
    print(subjects.table(["", "seconds", "over the bare import"], rows))


if __name__ == "__main__":
    console.run_command(main)
