"""Turn a pipeline's folder into another format.

    python -m dreambooth.export --model_path ./dream_outputs --format diffusers --output ./for_diffusers
    python -m dreambooth.export --model_path ./dream_outputs --format single_file --output ./sks_dog.safetensors
    python -m dreambooth.export --model_path ./dream_outputs --format lora_web_ui --output ./sks_dog_lora.safetensors

Formats: pdparams and safetensors are Paddle's own; diffusers is the folder that Hugging Face diffusers loads as it is;
single_file is one .safetensors in the layout of the original Stable Diffusion, as web UIs load it. A LoRA alone becomes
one .safetensors: lora_paddle for PPDiffusers, lora_diffusers, or lora_web_ui. In the other formats, the folder of a
LoRA stands for its base model with the LoRA in it.
"""

from pathlib import Path

from dreambooth.config.parser import Parser
from dreambooth.files import atomic, lora, weight_files
from dreambooth.models import loading, pipeline_folder, saving
from dreambooth.system import console, libraries
from dreambooth.system.errors import BadInput

LORA = {"lora_paddle": "paddle", "lora_diffusers": "diffusers", "lora_web_ui": "web_ui"}


def read_arguments(argv):
    parser = Parser(prog="python -m dreambooth.export", description=__doc__)
    add = parser.add_argument
    add("--model_path", required=True, metavar="TEXT", help="the pipeline's folder, a name, or a LoRA")
    add("--format", required=True, choices=(*saving.FORMATS, saving.SINGLE_FILE, *LORA), help="what to write")
    add("--output", required=True, metavar="TEXT", help="the new folder, or the file, to write; it must not be there")
    add("--half", action="store_true", help="write float16: half the size")
    add("--verbose", action="store_true", help="show the libraries' own messages too")
    arguments = parser.parse_args(argv)
    check(arguments)
    return arguments


def check(arguments):
    place = Path(arguments.output)
    if place.exists():
        raise BadInput(f"--output {place}: it is there already; give a new name")
    if not atomic.can_be_written(place.parent):
        raise BadInput(f"--output {place}: it can't be written there")
    one_file = arguments.format == saving.SINGLE_FILE or arguments.format in LORA
    if one_file != (place.suffix == ".safetensors"):
        wanted = "a file that ends in .safetensors" if one_file else "a folder"
        raise BadInput(f"--output {place}: {arguments.format} is {wanted}")
    if arguments.format in LORA:
        if arguments.half:
            raise BadInput(f"--half: not for {arguments.format}, which is small")
        lora.find_file(arguments.model_path, "--model_path")
        return
    pipeline_folder.check_model(arguments.model_path, flag="--model_path")


def main(argv):
    arguments = read_arguments(argv)
    if arguments.format in LORA:
        write_lora(arguments)
        return print(arguments.output)
    libraries.load(weight_files.READERS, arguments.verbose)
    family = loading.load_family(loading.Source(arguments.model_path), "--model_path")
    if arguments.half:
        for network in family.networks().values():
            saving.to_float16(network)
    place = Path(arguments.output)
    if arguments.format == saving.SINGLE_FILE:
        saving.write_single_file(family.single_file_weights(), place)
    else:
        with atomic.whole_folder(place) as temporary:
            family.save(temporary, arguments.format)
    print(place)


def write_lora(arguments):
    """Write a LoRA's file anew; the names of web UIs are those of Stable Diffusion's networks."""
    place = Path(arguments.output)
    parts = lora.read(lora.find_file(arguments.model_path, "--model_path"), "--model_path")
    if arguments.format == "lora_web_ui" and not lora.fits_web_ui(parts):
        raise BadInput(f"--format {arguments.format}: web UIs know Stable Diffusion's UNet and CLIP alone")
    if arguments.format != "lora_web_ui" and not all("." in layer for layers in parts.values() for layer in layers):
        raise BadInput(
            f"--model_path {arguments.model_path}: its layers' names have no dots, as web UIs like it; only"
            " with its model they could be told apart"
        )
    with atomic.whole_file(place) as temporary:
        lora.write(temporary, parts, LORA[arguments.format])


if __name__ == "__main__":
    console.run_command(main)
