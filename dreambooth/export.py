"""Turn a pipeline's folder into another format.

    python -m dreambooth.export --model_path ./dream_outputs --format diffusers --output ./for_diffusers
    python -m dreambooth.export --model_path ./dream_outputs --format single_file --output ./sks_dog.safetensors
    python -m dreambooth.export --model_path ./dream_outputs --format lora_web_ui --output ./sks_dog_lora.safetensors

Formats: pdparams and safetensors are Paddle's own; diffusers is the folder that Hugging Face diffusers loads as it is;
single_file is one .safetensors in the layout of the original Stable Diffusion, as web UIs load it. A LoRA alone becomes
one .safetensors: lora_paddle for PPDiffusers, lora_diffusers, or lora_web_ui. In the other formats, the folder of a
LoRA stands for its base model with the LoRA in it.
"""

from contextlib import contextmanager
from pathlib import Path

from dreambooth import command, formats, lora_files, models, output, single_file, stack
from dreambooth.checkpoint import flush, written_whole
from dreambooth.config import BadInput
from dreambooth.flags import Parser

SINGLE_FILE = "single_file"
LORA = {"lora_paddle": "paddle", "lora_diffusers": "diffusers", "lora_web_ui": "web_ui"}


def read_arguments(argv):
    parser = Parser(prog="python -m dreambooth.export", description=__doc__)
    add = parser.add_argument
    add("--model_path", required=True, metavar="TEXT", help="the pipeline's folder, a name, or a LoRA")
    add("--format", required=True, choices=(*formats.FORMATS, SINGLE_FILE, *LORA), help="what to write")
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
    if not output.can_be_written(place.parent):
        raise BadInput(f"--output {place}: it can't be written there")
    one_file = arguments.format == SINGLE_FILE or arguments.format in LORA
    if one_file != (place.suffix == ".safetensors"):
        wanted = "a file that ends in .safetensors" if one_file else "a folder"
        raise BadInput(f"--output {place}: {arguments.format} is {wanted}")
    if arguments.format in LORA:
        if arguments.half:
            raise BadInput(f"--half: not for {arguments.format}, which is small")
        lora_files.find(arguments.model_path, "--model_path")
        return
    models.check(arguments.model_path, flag="--model_path")


def main(argv):
    arguments = read_arguments(argv)
    if arguments.format in LORA:
        write_lora(arguments)
        return print(arguments.output)
    stack.load(arguments.verbose)
    pipeline = models.load_pipeline(arguments.model_path, flag="--model_path")
    networks = {name: part for name, part in pipeline.components.items() if hasattr(part, "state_dict")}
    if arguments.half:
        for network in networks.values():
            formats.halve(network)
    place = Path(arguments.output)
    if arguments.format == SINGLE_FILE:
        write_single_file(pipeline, place)
    else:
        with written_whole(place) as unfinished:
            formats.save(pipeline, unfinished, arguments.format)
    print(place)


def write_lora(arguments):
    """Write a LoRA's file anew; the names of web UIs are those of Stable Diffusion's networks."""
    place = Path(arguments.output)
    parts = lora_files.read(lora_files.find(arguments.model_path, "--model_path"), "--model_path")
    if arguments.format == "lora_web_ui" and not lora_files.is_stable_diffusions(parts):
        raise BadInput(f"--format {arguments.format}: web UIs know Stable Diffusion's UNet and CLIP alone")
    if arguments.format != "lora_web_ui" and not all("." in layer for layers in parts.values() for layer in layers):
        raise BadInput(
            f"--model_path {arguments.model_path}: its layers' names have no dots, as web UIs like it; only"
            " with its model they could be told apart"
        )
    with file_written_whole(place) as unfinished:
        lora_files.write(unfinished, parts, LORA[arguments.format])


def write_single_file(pipeline, place):
    """Write the weights of all parts into one file."""
    from safetensors.numpy import save_file

    kind = type(pipeline.text_encoder).__name__
    if kind != "CLIPTextModel" or type(pipeline).__name__ != "StableDiffusionPipeline":
        what = f"a {kind}" if kind != "CLIPTextModel" else f"a {type(pipeline).__name__}"
        raise BadInput(f"--format {SINGLE_FILE}: the layout has no place for {what}; web UIs can't load it")
    parts = {name: in_torch_layout(getattr(pipeline, name)) for name in ("unet", "vae", "text_encoder")}
    weights = single_file.joined(
        **parts,
        layers_per_block=pipeline.unet.config.layers_per_block,
        open_clip=pipeline.text_encoder.config.hidden_act == "gelu",  # Stable Diffusion 1 has quick_gelu
    )
    with file_written_whole(place) as unfinished:
        save_file(weights, unfinished, metadata={"format": "pt"})


@contextmanager
def file_written_whole(place):
    """A path to write to beside `place`, flushed to disk and renamed to it when all is there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_name(f".{place.name}.unfinished")
    yield unfinished
    flush(unfinished)
    unfinished.rename(place)


def in_torch_layout(network):
    """{name: array} of a network's weights, matrices turned as torch has them."""
    from ppdiffusers.models.modeling_pytorch_paddle_utils import convert_paddle_state_dict_to_pytorch

    return convert_paddle_state_dict_to_pytorch(network, {k: v.numpy() for k, v in network.state_dict().items()})


if __name__ == "__main__":
    command.run(main)
