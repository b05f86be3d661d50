"""Turn a pipeline's folder into another format.

    python -m dreambooth.export --model_path ./dream_outputs --format diffusers --output ./for_diffusers
    python -m dreambooth.export --model_path ./dream_outputs --format single_file --output ./sks_dog.safetensors
    python -m dreambooth.export --model_path ./dream_outputs --format lora_web_ui --output ./sks_dog_lora.safetensors
    python -m dreambooth.export --model_path ./from_a_web_ui.safetensors --like runwayml/stable-diffusion-v1-5 \\
        --format safetensors --output ./my_model

Formats: pdparams and safetensors are Paddle's own; diffusers is the folder that Hugging Face diffusers loads;
single_file is one .safetensors in the layout of the original Stable Diffusion, as web UIs load it. A LoRA alone becomes
one .safetensors: lora_paddle for PPDiffusers, lora_diffusers, or lora_web_ui. In the other formats, the folder of a
LoRA stands for its base model with the LoRA in it. One file of a web UI becomes a folder, with the settings and the
tokenizers of a model --like it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from dreambooth.config import commands, parser
from dreambooth.config.fields import flag
from dreambooth.config.run_sections import SaveFormat
from dreambooth.files import atomic, lora, records, weight_files
from dreambooth.models import loading, pipeline_folder, registry, saving
from dreambooth.system import console, disk, libraries
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
Format = Literal[SaveFormat, "single_file", "lora_paddle", "lora_diffusers", "lora_web_ui"]
LORA: dict[str, lora.Form] = {"lora_paddle": "paddle", "lora_diffusers": "diffusers", "lora_web_ui": "web_ui"}
_MOST_UNDERSCORES = 2  # in a name without dots that is a layer's own: clip_img_in


# fmt: off
@dataclass(frozen=True)
class ExportSettings(commands.CommandFlags, title="model and format"):
    """The settings of dreambooth.export."""

    model_path: str = flag(
        "the pipeline's folder, a name, a LoRA, or with --like one file of a web UI (required)", required=True)
    like: str | None = flag(
        "a folder, or a name, of a model with the same architecture, where --model_path is one file of a web UI")
    format: Format = flag(
        "what to write (required)", required=True, choices=get_args(Format))
    output: str = flag(
        "the new folder, or the file, to write; it must not be there (required)", required=True)
    half: bool = flag(
        "write float16: half the size", False)
# fmt: on


def read_settings(argv: Sequence[str]) -> ExportSettings:
    """Read the command line, and check everything that needs no library."""
    settings = parser.read_settings(ExportSettings, argv, prog="python -m dreambooth.export", description=__doc__)
    path = Path(settings.output)
    if path.exists():
        raise BadInput(f"--output {path}: it is there already; give a new name")
    disk.check_writable(path, "--output", is_file=True)
    one_file = settings.format == saving.SINGLE_FILE or settings.format in LORA
    if one_file != (path.suffix == ".safetensors"):
        kind = "a file that ends in .safetensors" if one_file else "a folder"
        raise BadInput(f"--output {path}: {settings.format} is {kind}")
    if settings.format in LORA:
        if settings.half:
            raise BadInput(f"--half: not for {settings.format}, which is small")
        records.check_lora(settings.model_path, "--model_path")
    elif settings.like:
        _check_file(settings)
    else:
        pipeline_folder.check_model(settings.model_path, flag="--model_path")
    return settings


def _check_file(settings: ExportSettings) -> None:
    """Check one file of a web UI, and the model that it is like."""
    path = Path(settings.model_path)
    if not path.is_file():
        raise BadInput(f"--model_path {path}: with --like it is one file of a web UI, and there is no such file")
    if settings.format == saving.SINGLE_FILE:
        raise BadInput(f"--format {settings.format}: {path} is one file already")
    try:
        weight_files.check(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"--model_path {path}: it can't be read ({str(error).removeprefix(f'{path}: ')})") from None
    pipeline_folder.check_model(str(settings.like), flag="--like")


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    settings = read_settings(argv)
    if settings.format in LORA:
        _write_lora(settings)
    else:
        libraries.load(weight_files.READERS, settings.verbose)
        _write_model(settings)
    print(settings.output)


def _write_model(settings: ExportSettings) -> None:
    """Write a whole model into a folder or a file."""
    if settings.like:
        family = loading.load_family(loading.Source(settings.like), "--like")
        weights, _ = weight_files.read(settings.model_path)
        saving.set_single_file_weights(family, weights, f"--model_path {settings.model_path}, --like {settings.like}")
    else:
        family = loading.load_family(loading.Source(settings.model_path), "--model_path")
    if settings.half:
        for network in family.networks().values():
            saving.to_float16(network)
    if settings.format == saving.SINGLE_FILE:
        if words := list(family.tokenizers[0].added_tokens_encoder):
            console.warn(
                f"the file has no place for {', '.join(words)}; web UIs load words from learned_embeds.safetensors"
            )
        saving.write_single_file(saving.single_file_weights(family), Path(settings.output))
    else:
        with atomic.whole_folder(Path(settings.output)) as temporary:
            family.save(temporary, cast("SaveFormat", settings.format))


def _write_lora(settings: ExportSettings) -> None:
    """Write a LoRA's file anew."""
    parts = records.read_lora(settings.model_path, "--model_path", registry.LORA_PARTS)
    index = _index_of_base(settings.model_path)
    facts = registry.facts_of(index) if index else None
    prefixes = None if facts and not facts.lora_prefixes else registry.lora_prefixes(parts)
    if settings.format == "lora_diffusers" and index and (reason := registry.unread_by_diffusers(index, parts)):
        console.warn(f"{reason}; this tool reads the file")
    if settings.format == "lora_web_ui" and prefixes is None:
        raise BadInput(f"--format {settings.format}: web UIs load {registry.WEB_UI_NETWORKS} alone")
    if settings.format != "lora_web_ui" and any(_is_of_web_ui(each) for layers in parts.values() for each in layers):
        raise BadInput(
            f"--model_path {settings.model_path}: its layers' names have no dots, as in files for web UIs;"
            " without its model, only --format lora_web_ui can be written"
        )
    with atomic.whole_file(Path(settings.output)) as temporary:
        lora.write(temporary, parts, LORA[settings.format], prefixes or {}, registry.TEXT_ENCODERS)


def _index_of_base(model_path: str) -> Mapping[str, Any] | None:
    """Return the classes of the base of a LoRA's folder, as a model_index.json names them; None where it can't be had.

    Records of earlier versions lack them, and the base may be here.
    """
    base = records.find_base(model_path)
    if base is None:
        return None
    try:
        index = records.read(Path(model_path)).get("base_index") or pipeline_folder.read_index(base.model)
        pipeline_folder.check_index(base.model, index)
    except (BadInput, OSError, ValueError, TypeError, AttributeError):
        return None
    return dict(index)


def _is_of_web_ui(layer: str) -> bool:
    """Check whether a layer's name has lost its dots; those of a network's first and last layers have none."""
    return "." not in layer and layer.count("_") > _MOST_UNDERSCORES


if __name__ == "__main__":
    console.run_command(main)
