"""Make the small Stable Diffusion from nothing: draw the world, and train its networks one after another.

python -m miniworld.pretrain                        # everything, in ./pretraining; goes on where it was stopped
python -m miniworld.pretrain --stages unet pack     # some of it
"""

import argparse
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from dreambooth.system import console, libraries
from dreambooth.system import processes as system_processes
from miniworld import HERE, packing, stages

STAGES = ("pictures", "tokenizer", "vae", "clip", "detector", "latents", "unet", "decoder", "image-tower", "pack")


def main(argv):
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m miniworld.pretrain", description=__doc__, formatter_class=formatter
    )
    parser.add_argument("--work", type=Path, default=Path("pretraining"), help="folder for what comes on the way")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--processes", type=int, default=2, help="processes that train together (default: 2)")
    parser.add_argument("--unet_updates", type=int, default=16_000, help="of 16 pictures each (default: 16000)")
    parser.add_argument("--go_on_from", type=Path, metavar="FOLDER", help="let a packed model's UNet learn on")
    parser.add_argument("--output", type=Path, default=HERE, help="where the packed model goes (default: miniworld)")
    arguments = parser.parse_args(argv)
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if "pictures" in arguments.stages and not (work / "pictures.npy").exists():
        stages.draw_pictures(work)
    if arguments.processes > 1 and system_processes.world_size() == 1:
        sys.exit(launch(arguments.processes, argv))
    libraries.load()
    system_processes.start()
    import paddle

    if arguments.go_on_from and not (work / "tokenizer").exists() and system_processes.is_first():
        packing.unpack(arguments.go_on_from, work)
    system_processes.wait()
    made = {
        "tokenizer": ("tokenizer", stages.make_tokenizer),
        "vae": ("vae", stages.train_vae),
        "clip": ("clip", stages.train_clip),
        "detector": ("detector.safetensors", stages.train_detector),
        "latents": ("latents.npy", stages.encode_latents),
        "unet": ("unet", functools.partial(stages.train_unet, updates=arguments.unet_updates)),
        "decoder": ("decoder", stages.train_decoder),
        "image-tower": ("image-tower", stages.train_image_tower),
    }
    for stage, (result, make) in made.items():
        if stage in arguments.stages and not (work / result).exists():
            paddle.seed(stages.SEED)
            system_processes.wait()
            if stage != "tokenizer" or system_processes.is_first():
                make(work)
            system_processes.wait()
    if "pack" in arguments.stages and system_processes.is_first():
        packing.pack(work, arguments.output)


def launch(processes, argv):
    """Start this command once more in several processes; two with a thread each use two cores better than one with
    two."""
    top = HERE.parent
    python_path = os.pathsep.join(filter(None, (str(top), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as logs:
        launcher = ["-m", "paddle.distributed.launch", "--log_level", "ERROR", "--nproc_per_node", str(processes)]
        line = [sys.executable, *launcher, "--log_dir", logs, str(HERE / "pretrain.py"), *argv]
        return subprocess.call(line, env={**os.environ, "PYTHONPATH": python_path})


if __name__ == "__main__":
    console.run_command(main)
