"""Draw pictures with a fine-tuned model, or any other Stable Diffusion or UniDiffuser pipeline.

    python infer.py --model_path ./dream_outputs --prompt "A photo of sks dog in a bucket"
    python infer.py --model_path ./dream_outputs --prompt "sks dog at night" "sks dog on the beach" \\
        --num_images 4 --seed 1 --scheduler dpmsolver++ --num_inference_steps 25 --grid
    python infer.py --model_path ./my_model --lora ./dream_outputs --lora_scale 0.8 --prompt "A photo of sks dog"
"""

import math
import re
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from dreambooth.config.commands import DrawSettings
from dreambooth.config.parser import Parser
from dreambooth.drawing import sampling, sheets
from dreambooth.files import atomic, lora, weight_files
from dreambooth.models import loading, pipeline_folder, schedulers
from dreambooth.system import console, disk, libraries
from dreambooth.system.errors import BadInput


def read_arguments(argv):
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--model_path", required=True, metavar="TEXT", help="the pipeline's folder, or a name on the hub")
    add("--prompt", required=True, nargs="+", action="extend", metavar="TEXT", help="what to draw; several are fine")
    add("--negative_prompt", metavar="TEXT", help="what to keep out of the pictures")
    add("--num_images", type=int, default=1, metavar="N", help="pictures for each prompt (default: 1)")
    add("--num_inference_steps", type=int, default=50, metavar="N", help="denoising steps (default: 50)")
    add("--guidance_scale", type=float, default=7.5, metavar="X", help="weight of the prompt (default: 7.5)")
    add("--lora", metavar="TEXT", help="a LoRA to put into the model: a folder, or a .safetensors of any tool")
    add("--lora_scale", type=float, metavar="X", help="how much of it (default: 1)")
    add("--seed", type=int, default=0, metavar="N", help="picture k of a prompt is a function of this (default: 0)")
    add("--height", type=int, metavar="N", help="default: the model's own")
    add("--width", type=int, metavar="N", help="default: the model's own")
    add("--scheduler", choices=schedulers.SCHEDULERS, help="default: the model's own")
    add("--batch_size", type=int, default=4, metavar="N", help="pictures drawn at once on a card (default: 4)")
    add("--output_dir", default="outputs", metavar="TEXT", help="folder for the pictures (default: outputs)")
    add("--output", metavar="FILE.png", help="file for the one picture, or for the grid, instead of --output_dir")
    add("--grid", action="store_true", help="also put all pictures on one sheet, a row for each prompt")
    add("--verbose", action="store_true", help="show the libraries' own messages too")
    arguments = parser.parse_args(argv)
    check(arguments)
    return arguments


def check(arguments):
    sampling.check_settings(arguments, counts=("num_images", "num_inference_steps", "batch_size"))
    if arguments.lora:
        lora.find_file(arguments.lora, "--lora")
    if arguments.lora_scale is not None and not math.isfinite(arguments.lora_scale):
        raise BadInput(f"--lora_scale {arguments.lora_scale}: must be a finite number")
    if arguments.lora_scale is not None and not (arguments.lora or lora.find_base(arguments.model_path)):
        raise BadInput("--lora_scale needs --lora, or the folder of a LoRA as --model_path")
    if not all(prompt.strip() for prompt in arguments.prompt):
        raise BadInput("--prompt: a prompt is empty")
    for name in ("height", "width"):
        size = getattr(arguments, name)
        if size is not None and (size <= 0 or size % 8):
            raise BadInput(f"--{name} {size}: must be a positive multiple of 8")
    count = len(arguments.prompt) * arguments.num_images
    if arguments.output and count > 1 and not arguments.grid:
        raise BadInput(f"--output {arguments.output}: one file for {count} pictures; add --grid or use --output_dir")
    if arguments.output and Path(arguments.output).suffix.lower() != ".png":
        raise BadInput(f"--output {arguments.output}: must end in .png")
    name = "output" if arguments.output else "output_dir"
    place = Path(getattr(arguments, name))
    if not atomic.can_be_written(place.parent if arguments.output else place) or (arguments.output and place.is_dir()):
        raise BadInput(f"--{name} {place}: it can't be written there")
    pipeline_folder.check_model(arguments.model_path, flag="--model_path")


def main(argv):
    arguments = read_arguments(argv)
    libraries.load(weight_files.READERS, arguments.verbose)

    # Load the pipeline, and settle what was left to it
    scale = 1.0 if arguments.lora_scale is None else arguments.lora_scale
    source = loading.Source(arguments.model_path)
    family = loading.load_family(source, "--model_path", lora_scale=1.0 if arguments.lora else scale)
    if arguments.lora:
        loading.merge_lora(family, arguments.lora, scale, "--lora")
    own_height, own_width = family.default_size
    height, width = arguments.height or own_height, arguments.width or own_width

    # Draw
    wanted = [(prompt, number) for prompt in arguments.prompt for number in range(arguments.num_images)]
    settings = DrawSettings(
        seed=arguments.seed,
        purpose="picture",
        size=(height, width),
        steps=arguments.num_inference_steps,
        guidance=arguments.guidance_scale,
        scheduler=arguments.scheduler,
        batch_size=arguments.batch_size,
        negative_prompt=arguments.negative_prompt,
    )
    pictures = sampling.draw(family, settings, wanted)
    # Save each as it comes, with what is needed to draw it again
    scheduler = arguments.scheduler and schedulers.SCHEDULERS[arguments.scheduler].class_name
    text = {
        "negative_prompt": arguments.negative_prompt or "",
        "seed": arguments.seed,
        "steps": arguments.num_inference_steps,
        "guidance_scale": arguments.guidance_scale,
        "scheduler": scheduler or type(family.pipeline.scheduler).__name__,
        "size": f"{width}x{height}",
        "model": arguments.model_path,
    }
    if arguments.lora or arguments.lora_scale is not None:
        text |= {"lora": arguments.lora or arguments.model_path, "lora_scale": scale}
    drawn, written = [], []
    with disk.explained(lambda: f"{len(written)} pictures before it are whole"):
        for (prompt, number), picture in zip(wanted, console.progress_bar(pictures, total=len(wanted), desc="Drawing")):
            index = len(drawn) // arguments.num_images
            path = Path(arguments.output_dir) / f"{slug(prompt)}-{index}-seed{arguments.seed}-{number}.png"
            if arguments.output and not arguments.grid:
                path = Path(arguments.output)
            if not (arguments.output and arguments.grid):
                written.append(save(picture, path, {"prompt": prompt, "picture": number, **text}))
            drawn.append(picture)
        if arguments.grid:
            sheet = sheets.make_grid(drawn, columns=arguments.num_images)
            path = Path(arguments.output or Path(arguments.output_dir) / "grid.png")
            written.append(save(sheet, path, {"prompt": " | ".join(arguments.prompt), **text}))
    print(*written, sep="\n")


def save(picture, path, text):
    """Write a png with its settings in its text; returns its path."""
    chunks = PngInfo()
    for name, value in text.items():
        chunks.add_itxt(name, str(value))
    atomic.write_picture(path, picture, pnginfo=chunks)
    return path


def slug(prompt):
    """A file name that reads like the prompt, in any script."""
    return re.sub(r"\W+", "-", prompt).strip("-")[:60] or "picture"


if __name__ == "__main__":
    console.run_command(main)
