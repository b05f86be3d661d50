"""Train the small Stable Diffusion from scratch: draw the world, then train one network after another.

python -m miniworld.pretrain                        # all stages, in ./pretraining; resumes after a stop
python -m miniworld.pretrain --stages unet pack     # some stages

The upscaler alone, beside the parts that the project carries:

python -m miniworld.pretrain --go_on_from miniworld --stages large-pictures upscaler pack-upscaler
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dreambooth.config.parser import Parser
from dreambooth.files import moves, weight_files
from dreambooth.system import console, disk, libraries
from dreambooth.system import processes as system_processes
from dreambooth.system.errors import BadInput
from miniworld import dataset, packing, paths, stages, upscaling

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


class _Stage(NamedTuple):
    """A stage's result in the folder of --work, and the stages whose results it reads."""

    result: str
    inputs: tuple[str, ...] = ()


_PACKED = ("tokenizer", "vae", "clip", "detector")  # the results in a packed model, beside the UNet
_STAGES = {
    "pictures": _Stage("pictures.npy"),
    "tokenizer": _Stage("tokenizer"),
    "vae": _Stage("vae", ("pictures",)),
    "clip": _Stage("clip", ("pictures", "tokenizer")),
    "detector": _Stage("detector.safetensors"),
    "latents": _Stage("latents.npy", ("pictures", "vae")),
    "unet": _Stage("unet", ("tokenizer", "clip", "latents")),
    "decoder": _Stage("decoder", ("pictures", "vae")),
    "image-tower": _Stage("image-tower", ("pictures", "tokenizer", "clip")),
    "pack": _Stage("", _PACKED),  # its result is in the folder of --output
    "large-pictures": _Stage(upscaling.LARGE),
    "upscaler": _Stage("upscaler", ("tokenizer", "vae", "clip", "large-pictures")),
    "pack-upscaler": _Stage("", ("tokenizer", "vae", "clip", "upscaler")),
}
STAGES = tuple(_STAGES)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m miniworld.pretrain", description=__doc__)
    add = parser.add_argument
    add("--work", type=Path, default=Path("pretraining"), help="folder for intermediate results (default: pretraining)")
    add("--stages", nargs="+", choices=STAGES, default=STAGES, help="the stages to run (default: all)")
    add("--processes", type=int, default=2, help="number of processes that train together (default: 2)")
    add("--unet_updates", type=int, default=16_000, help="updates of the UNet, of 16 pictures each (default: 16000)")
    add("--go_on_from", type=Path, metavar="FOLDER", help="folder of a packed model to begin from")
    add("--output", type=Path, default=paths.FOLDER, help="folder for the packed model (default: miniworld)")
    arguments = parser.parse_args(argv)
    work = arguments.work
    unpacked = arguments.go_on_from if not (work / "tokenizer").exists() else None
    if unpacked and not (unpacked / "model" / moves.INDEX).is_file():
        raise BadInput(f"--go_on_from {unpacked}: it has no model; give a folder such as miniworld")
    _check_inputs(work, arguments.stages, given=_PACKED if unpacked else ())
    if {"pack", "pack-upscaler"} & {*arguments.stages} and not disk.can_be_written(arguments.output):
        raise BadInput(f"--output {arguments.output}: not a writable folder; choose another one")
    work.mkdir(parents=True, exist_ok=True)
    for stage, draw in (("pictures", dataset.draw_pictures), ("large-pictures", upscaling.draw_pictures)):
        if stage in arguments.stages and not (work / _STAGES[stage].result).exists():
            draw(work)
    if arguments.processes > 1 and system_processes.world_size() == 1:
        sys.exit(_launch(arguments.processes, argv))

    # Join the other processes
    libraries.load(weight_files.READERS)
    system_processes.start()
    import paddle

    if unpacked and system_processes.is_first():
        packing.unpack(unpacked, work)
    system_processes.wait()

    # Run each stage whose result is missing
    train_unet = functools.partial(stages.train_unet, updates=arguments.unet_updates)
    runs: dict[str, Callable[[Path], None]] = {
        "tokenizer": stages.make_tokenizer,
        "vae": stages.train_vae,
        "clip": stages.train_clip,
        "detector": stages.train_detector,
        "latents": stages.encode_latents,
        "unet": train_unet,
        "decoder": stages.train_decoder,
        "image-tower": stages.train_image_tower,
        "upscaler": upscaling.train,
    }
    for stage, run_stage in runs.items():
        if stage in arguments.stages and not (work / _STAGES[stage].result).exists():
            paddle.seed(stages.SEED)
            system_processes.wait()
            if stage != "tokenizer" or system_processes.is_first():
                run_stage(work)
            system_processes.wait()
    for stage, pack in (("pack", packing.pack), ("pack-upscaler", upscaling.pack)):
        if stage in arguments.stages and system_processes.is_first():
            pack(work, arguments.output)


def _check_inputs(work: Path, chosen: Collection[str], given: Collection[str]) -> None:
    """Refuse stages whose inputs neither exist, nor are given, nor come from another chosen stage."""
    for name, stage in _STAGES.items():
        if name in chosen and not (stage.result and (work / stage.result).exists()):
            for needed in stage.inputs:
                if needed not in {*chosen, *given} and not (work / _STAGES[needed].result).exists():
                    raise BadInput(f"--stages {name}: {work} has no {_STAGES[needed].result}; add the stage {needed}")


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
