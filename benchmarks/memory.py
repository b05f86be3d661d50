"""The most memory that a run takes, over that of its floor: the bare loop on the trained network alone.

    python -m benchmarks.memory                 # the embedded model
    python -m benchmarks.memory --model full    # Stable Diffusion 1's shape, 256 x 256, batch 1: 24 GB
    python -m benchmarks.memory --cache         # what encoded class pictures take, and how long it takes to encode them

Each row is a process of its own, whose peak the system tells; a run goes from its start to the saved pipeline.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import subjects
from dreambooth.files import atomic
from dreambooth.system import console

STEPS = 3
FLOOR = """
import sys
from dreambooth.system import libraries
libraries.load()
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
RUNS = {
    "a run": (),
    "with --gradient_checkpointing": ("--gradient_checkpointing",),
    "with --train_text_encoder": ("--train_text_encoder",),
    "with --lora_rank 4": ("--lora_rank", "4"),
}


def peak_of(*arguments):
    """(GB, seconds) of a process, which has to succeed. The system's own account of a finished process would count its
    parent's memory too, so its peak is read while it runs."""
    begun, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=said, stderr=said, cwd=subjects.ROOT)
        while process.poll() is None:
            peak = max(peak, high_water(process.pid))
            time.sleep(0.05)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode(errors="replace"))
    return peak / 1e9, time.perf_counter() - begun


def high_water(number):
    """The most memory that a process has had, in bytes; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{number}/status").read_text(encoding="ascii")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
    except (OSError, TypeError):
        return 0


def compare(arguments):
    folder, size, batch = subjects.run_of(arguments)
    factor = 4 if arguments.model == "mini" else 8
    floor, _ = peak_of("-c", FLOOR, folder, size // factor, batch, STEPS)
    rows = [["the bare loop", f"{floor:.2f}", "1.00"]]
    for name in arguments.runs or RUNS:
        with tempfile.TemporaryDirectory() as output:
            peak, _ = peak_of(
                "train_dreambooth.py", *subjects.run_flags(folder, output, size, batch, STEPS, *RUNS[name])
            )
        rows.append([name, f"{peak:.2f}", f"{peak / floor:.2f}"])
    print(f"{arguments.model}, {size} x {size}, batch {batch}, {STEPS} steps and the pipeline saved\n")
    print(subjects.table(["", "peak, GB", "over the bare loop"], rows))


def encode_many(arguments):
    """A run with one class picture, and with more and more: what they take, and how long."""
    from PIL import Image

    from dreambooth.system import randomness

    folder, size, _ = subjects.run_of(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as pictures:
        for count in (1, *arguments.counts):
            for number in range(len(os.listdir(pictures)), count):
                pixels = randomness.stream(0, "picture", number).integers(0, 256, (8, 8, 3)).astype("uint8")
                atomic.write_picture(Path(pictures) / f"{number}.png", Image.fromarray(pixels).resize((size, size)))
            prior = ["--with_prior_preservation", "--class_prompt", "a photo of a dog", "--class_data_dir", pictures]
            with tempfile.TemporaryDirectory() as output:
                line = subjects.run_flags(folder, output, size, 1, 1, *prior, "--num_class_images", str(count))
                rows.append([count, *peak_of("train_dreambooth.py", *line)])
    _, least, soonest = rows[0]
    print(subjects.table(
        ["class pictures", "peak, GB", "more than with one, MB a picture", "seconds a picture"],
        [
            [count, f"{peak:.2f}", *(["–"] * 2 if count == 1 else
             [f"{(peak - least) / (count - 1) * 1e3:.3f}", f"{(seconds - soonest) / (count - 1):.3f}"])]
            for count, peak, seconds in rows
        ],
    ))  # fmt: skip


def main(argv):
    parser = subjects.parser("memory", __doc__)
    subjects.add_run_flags(parser)
    parser.add_argument("--runs", nargs="+", choices=RUNS, metavar="TEXT", help=f"some of: {', '.join(RUNS)}")
    parser.add_argument("--cache", action="store_true", help="measure the cache of encoded pictures instead")
    parser.add_argument("--counts", nargs="+", type=int, default=[250, 500, 1000], metavar="N", help="of how many")
    arguments = parser.parse_args(argv)
    encode_many(arguments) if arguments.cache else compare(arguments)


if __name__ == "__main__":
    console.run_command(main)
