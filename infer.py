"""Draw pictures with a fine-tuned model, or any other Stable Diffusion or UniDiffuser pipeline.

    python infer.py --model_path ./dream_outputs --prompt "A photo of sks dog in a bucket"
    python infer.py --model_path ./dream_outputs --prompt "sks dog at night" "sks dog on the beach" \\
        --num_images 4 --seed 1 --scheduler dpmsolver++ --num_inference_steps 25 --grid
    python infer.py --model_path ./my_model --lora ./dream_outputs --lora_scale 0.8 --prompt "A photo of sks dog"
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dreambooth.config import commands, parser
from dreambooth.config.fields import check_png, flag
from dreambooth.data import rare_words
from dreambooth.drawing import sampling, sheets
from dreambooth.files import atomic, records, weight_files
from dreambooth.models import loading, pipeline_folder, schedulers, tokenizers
from dreambooth.system import console, disk, libraries
from dreambooth.system.devices import cards
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


# fmt: off
@dataclass(frozen=True)
class InferSettings(commands.DrawFlags, title="model, prompts and files"):
    """The settings of infer.py."""

    model_path: str = flag(
        "the pipeline's folder, a LoRA's, one of its checkpoints, or a name on the hub (required)", required=True)
    prompt: tuple[str, ...] = flag(
        "what to draw; several are fine (required)", (), required=True, nargs="+", action="extend")
    negative_prompt: str | None = flag(
        "what to keep out of the pictures")
    num_images: int = flag(
        "pictures for each prompt", 1, least=1)
    height: int | None = flag(
        "height of the pictures (default: the model's own)", type=int)
    width: int | None = flag(
        "width of the pictures (default: the model's own)", type=int)
    lora: str | None = flag(
        "a LoRA to put into the model: a folder, or a .safetensors of any tool")
    lora_scale: float | None = flag(
        "how much of it (default: 1)", type=float)
    vae_tiling: bool = flag(
        "decode a large picture in tiles: less memory, and the colours may differ a little between them", False)
    output_dir: str = flag(
        "folder for the pictures", "outputs")
    output: str | None = flag(
        "file for the one picture, or for the grid, instead of --output_dir", metavar="FILE.png")
    grid: bool = flag(
        "also put all pictures on one sheet, a row for each prompt", False)
    # fmt: on

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        for name, side in (("height", self.height), ("width", self.width)):
            if side is not None and (side <= 0 or side % 8):
                raise BadInput(f"--{name} {side}: must be a positive multiple of 8")
        count = len(self.prompt) * self.num_images
        if self.output and count > 1 and not self.grid:
            raise BadInput(f"--output {self.output}: one file for {count} pictures; add --grid or use --output_dir")
        check_png("--output", self.output)
        commands.check_prompts(self.prompt)  # which may warn

    @property
    def scale(self) -> float:
        """The share of the LoRA that is put into the model."""
        return 1.0 if self.lora_scale is None else self.lora_scale


def read_settings(argv: Sequence[str]) -> InferSettings:
    """Read the command line, and check everything that needs no library."""
    settings = parser.read_settings(InferSettings, argv, description=__doc__)
    if settings.lora:
        records.check_lora(settings.lora, "--lora")
    if settings.lora_scale is not None and not (settings.lora or _is_lora(settings.model_path)):
        raise BadInput("--lora_scale needs --lora, or a LoRA as --model_path")
    if settings.output:
        disk.check_writable(Path(settings.output), "--output", is_file=True)
    else:
        disk.check_writable(Path(settings.output_dir), "--output_dir")
    pipeline_folder.check_model(settings.model_path, flag="--model_path")
    return settings


def _is_lora(model_path: str) -> bool:
    base = records.find_base(model_path)
    return base is not None and base.is_lora


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    settings = read_settings(argv)
    libraries.load(weight_files.READERS, settings.verbose)
    cards.check_precision(settings.mixed_precision)

    # Load the model, and settle the size
    source = loading.Source(settings.model_path)
    family = loading.load_family(source, "--model_path", lora_scale=1.0 if settings.lora else settings.scale)
    if settings.lora:
        loading.merge_lora(family, settings.lora, settings.scale, "--lora")
    for warning in (
        *tokenizers.truncations(family.tokenizer, settings.prompt),
        *rare_words.spelled_out(family.tokenizer, settings.prompt),
    ):
        console.warn(warning)
    if kind := cards.half(settings.mixed_precision):
        loading.to_half(family.networks(), kind)
    if settings.vae_tiling:
        getattr(family.pipeline, family.facts.decoder).enable_tiling()
    height, width = family.default_size
    size = settings.height or height, settings.width or width

    # Draw
    requests = sampling.requests_for(settings.prompt, settings.num_images)
    drawing = sampling.draw(family, settings.draw_settings(size, settings.negative_prompt), requests)
    scheduler = settings.scheduler and schedulers.SCHEDULERS[settings.scheduler].class_name

    # Save each picture as it comes, with its settings in its text
    text = {
        "negative_prompt": settings.negative_prompt or "",
        "seed": settings.seed,
        "steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "scheduler": scheduler or type(family.pipeline.scheduler).__name__,
        "size": f"{size[1]}x{size[0]}",
        "model": settings.model_path,
    }
    if settings.lora or settings.lora_scale is not None:
        text |= {"lora": settings.lora or settings.model_path, "lora_scale": settings.scale}
    pictures: list[Image.Image] = []
    written: list[Path] = []
    with disk.explained(lambda: f"{len(written)} pictures before it are whole"):
        bar = console.progress_bar(drawing, total=len(requests), desc="Drawing")
        for picture, (prompt, number) in zip(bar, requests):  # the bar first, so that it gets to its end
            index = len(pictures) // settings.num_images
            own = {"prompt": prompt, "picture": number, **text}
            path = Path(settings.output_dir) / f"{_slug(prompt)}-{index}-seed{settings.seed}-{number}.png"
            path = Path(settings.output) if settings.output and not settings.grid else _free(path, own)
            if not (settings.output and settings.grid):
                written.append(_save(picture, path, own))
            pictures.append(picture)
        if settings.grid:
            sheet = sheets.make_grid(pictures, columns=settings.num_images)
            own = {"prompt": " | ".join(settings.prompt), **text}
            path = Path(settings.output) if settings.output else _free(Path(settings.output_dir) / "grid.png", own)
            written.append(_save(sheet, path, own))
    print(*written, sep="\n")


def _save(picture: Image.Image, path: Path, text: Mapping[str, Any]) -> Path:
    """Write a PNG with its settings in its text; return its path."""
    atomic.write_picture(path, picture, text)
    return path


def _free(path: Path, text: Mapping[str, Any]) -> Path:
    """Return the path, or one like it, where no picture is of another model or other settings."""
    for number in itertools.count(2):
        try:
            with Image.open(path) as there:
                if there.info == {name: str(value) for name, value in text.items()}:
                    return path
        except FileNotFoundError:
            return path
        except (OSError, ValueError, SyntaxError):  # no picture, or a damaged one
            pass
        path = path.with_name(f"{path.stem.partition('~')[0]}~{number}.png")
    raise AssertionError("there is always a number")


def _slug(prompt: str) -> str:
    """Make a file name that reads like the prompt, in any script."""
    return re.sub(r"\W+", "-", prompt).strip("-")[:60] or "picture"


if __name__ == "__main__":
    console.run_command(main)
