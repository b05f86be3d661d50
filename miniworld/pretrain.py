"""Train the small Stable Diffusion from scratch: draw the world, then train one network after another.

python -m miniworld.pretrain                        # all stages, in ./pretraining; resumes after a stop
python -m miniworld.pretrain --stages unet pack     # some stages
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.config.parser import Parser
from dreambooth.files import weight_files
from dreambooth.system import console, libraries
from dreambooth.system import processes as system_processes
from miniworld import dataset, packing, paths, stages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STAGES = ("pictures", "tokenizer", "vae", "clip", "detector", "latents", "unet", "decoder", "image-tower", "pack")


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m miniworld.pretrain", description=__doc__)
    add = parser.add_argument
    add("--work", type=Path, default=Path("pretraining"), help="folder for intermediate results (default: pretraining)")
    add("--stages", nargs="+", choices=STAGES, default=STAGES, help="the stages to run (default: all)")
    add("--processes", type=int, default=2, help="number of processes that train together (default: 2)")
    add("--unet_updates", type=int, default=16_000, help="updates of the UNet, of 16 pictures each (default: 16000)")
    add("--go_on_from", type=Path, metavar="FOLDER", help="folder of a packed model whose UNet trains further")
    add("--output", type=Path, default=paths.FOLDER, help="folder for the packed model (default: miniworld)")
    arguments = parser.parse_args(argv)
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if "pictures" in arguments.stages and not (work / "pictures.npy").exists():
        dataset.draw_pictures(work)
    if arguments.processes > 1 and system_processes.world_size() == 1:
        sys.exit(_launch(arguments.processes, argv))

    # Join the other processes
    libraries.load(weight_files.READERS)
    system_processes.start()
    import paddle

    if arguments.go_on_from and not (work / "tokenizer").exists() and system_processes.is_first():
        packing.unpack(arguments.go_on_from, work)
    system_processes.wait()

    # Run each stage whose result is missing
    train_unet = functools.partial(stages.train_unet, updates=arguments.unet_updates)
    results: dict[str, tuple[str, Callable[[Path], None]]] = {
        "tokenizer": ("tokenizer", stages.make_tokenizer),
        "vae": ("vae", stages.train_vae),
        "clip": ("clip", stages.train_clip),
        "detector": ("detector.safetensors", stages.train_detector),
        "latents": ("latents.npy", stages.encode_latents),
        "unet": ("unet", train_unet),
        "decoder": ("decoder", stages.train_decoder),
        "image-tower": ("image-tower", stages.train_image_tower),
    }
    for stage, (result, run_stage) in results.items():
        if stage in arguments.stages and not (work / result).exists():
            paddle.seed(stages.SEED)
            system_processes.wait()
            if stage != "tokenizer" or system_processes.is_first():
                run_stage(work)
            system_processes.wait()
    if "pack" in arguments.stages and system_processes.is_first():
        packing.pack(work, arguments.output)


def _launch(processes: int, argv: Sequence[str]) -> int:
    """Run this command in several processes; return the exit code.

    Two processes of one thread each use two cores better than one process of two threads.
    """
    top = paths.FOLDER.parent
    python_path = os.pathsep.join(filter(None, (str(top), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as logs:
        launcher = ["-m", "paddle.distributed.launch", "--log_level", "ERROR", "--nproc_per_node", str(processes)]
        line = [sys.executable, *launcher, "--log_dir", logs, str(paths.FOLDER / "pretrain.py"), *argv]
        return subprocess.call(line, env={**os.environ, "PYTHONPATH": python_path})


if __name__ == "__main__":
    console.run_command(main)
