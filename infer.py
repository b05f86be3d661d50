"""Draw pictures with a fine-tuned model, or any other pipeline of a supported kind.

    python infer.py --model_path ./dream_outputs --prompt "A photo of sks dog in a bucket"
    python infer.py --model_path ./dream_outputs --prompt "sks dog at night" "sks dog on the beach" \\
        --num_images 4 --seed 1 --scheduler dpmsolver++ --num_inference_steps 25 --grid
    python infer.py --model_path ./my_model --lora ./dream_outputs --lora_scale 0.8 --prompt "A photo of sks dog"
    python infer.py --model_path ./dream_outputs --image room.png --mask sofa.png --prompt "sks dog on a sofa"
    python infer.py --model_path ./dream_outputs --controlnet lllyasviel/sd-controlnet-canny --draw_edges \\
        --control_image sitting.png running.png --grid --prompt "A photo of sks dog"
    python infer.py --model_path ./dream_outputs --upscaler ./dream_upscaler --prompt "A photo of sks dog"
"""

from __future__ import annotations

import dataclasses
import functools
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
from dreambooth.drawing.inputs import edges, enlarging, painting, starts
from dreambooth.files import atomic, records, weight_files
from dreambooth.models import loading, pipeline_folder, schedulers, tokenizers
from dreambooth.system import console, disk, libraries
from dreambooth.system.devices import cards
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dreambooth.models.family.base import Family
    from dreambooth.models.family.control import Controlled
    from dreambooth.system.types import Size


# fmt: off
@dataclass(frozen=True)
class InferSettings(commands.InputFlags, commands.DrawFlags, title="model, prompts and files"):
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
        "height of the pictures (default: the model's own, in the shape of --image)", type=int)
    width: int | None = flag(
        "width of the pictures (default: the model's own, in the shape of --image)", type=int)
    lora: str | None = flag(
        "a LoRA to put into the model: a folder, or a .safetensors of any tool")
    lora_scale: float | None = flag(
        "how much of it (default: 1)", type=float)
    without_t5: bool = flag(
        "load a Stable Diffusion 3 without T5, its third text encoder: 19 GB less in float32", False)
    vae_tiling: bool = flag(
        "decode a large picture in tiles: less memory, and the colours may differ a little between them", False)
    output_dir: str = flag(
        "folder for the pictures", "outputs")
    output: str | None = flag(
        "file for the one picture, or for the grid, instead of --output_dir", metavar="FILE.png")
    grid: bool = flag(
        "also put all pictures on one sheet, a row for each prompt, or for each pose", False)
    # fmt: on

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        for name, side in (("height", self.height), ("width", self.width)):
            if side is not None and (side <= 0 or side % starts.STEP):
                raise BadInput(f"--{name} {side}: must be a positive multiple of {starts.STEP}")
        count = len(self.prompt) * self.num_images * max(1, len(self.control_image))
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
    if settings.upscaler:
        pipeline_folder.check_model(settings.upscaler, flag="--upscaler")
    return settings


def _read_start(settings: InferSettings) -> starts.Start | None:
    """Read the picture to begin from, and its mask."""
    if settings.image is None:
        return None
    picture = starts.read(settings.image, "--image")
    mask = None if settings.mask is None else starts.read_mask(settings.mask, picture, "--mask")
    return starts.Start(picture, mask, settings.share_drawn)


def _is_lora(model_path: str) -> bool:
    base = records.find_base(model_path)
    return base is not None and base.is_lora


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    settings = read_settings(argv)
    start = _read_start(settings)
    poses = [starts.read(path, "--control_image") for path in settings.control_image]
    if start is None and None in (settings.height, settings.width):
        starts.check_alike(poses, settings.control_image)
    libraries.load(weight_files.READERS, settings.verbose)
    cards.check_precision(settings.mixed_precision)

    # Load the model, and settle the size
    source = loading.Source(settings.model_path, without_t5=settings.without_t5 or records.is_without_t5(settings.lora))
    family = loading.load_family(source, "--model_path", lora_scale=1.0 if settings.lora else settings.scale)
    if settings.lora:
        loading.merge_lora(family, settings.lora, settings.scale, "--lora")
    for warning in (
        *tokenizers.truncations(family, settings.prompt),
        *rare_words.spelled_out(family.tokenizers[0], settings.prompt),
    ):
        console.warn(warning)
    if start is not None:
        if family.facts.enlarges and settings.strength is None:
            start = dataclasses.replace(start, strength=1.0)
        painting.check(family, start, settings.num_inference_steps)
    upscaler = None
    if settings.upscaler:
        upscaler = loading.load_family(loading.Source(settings.upscaler), "--upscaler")
        enlarging.check(upscaler, settings.upscaler)
    controlled = None
    if settings.controlnet:
        from dreambooth.models.family import control

        controlled = control.add(family, settings.controlnet, settings.share_of_control)
    if kind := cards.half(settings.mixed_precision):
        for each in filter(None, (family, upscaler)):
            loading.to_half(each.networks(), kind)
    if settings.vae_tiling:
        decoders = [each.decoder for each in filter(None, (family, upscaler)) if each.decoder is not None]
        if not decoders:
            raise BadInput(f"--vae_tiling: a model of {family.facts.pipeline} has no VAE; leave it out")
        for decoder in decoders:
            decoder.enable_tiling()
    size = _choose_size(settings, family, [start.picture] if start else poses)
    start = start and start.fitted(painting.size_of_start(family, size))
    poses = [starts.fitted(each, size) for each in poses]
    if settings.draw_edges:
        poses = [edges.draw_edges(each) for each in poses]

    # Draw all prompts, for each pose if there are any
    requests = sampling.requests_for(settings.prompt, settings.num_images)
    draw = functools.partial(
        sampling.draw, family, settings.draw_settings(size, settings.negative_prompt), requests, start
    )
    drawing = draw() if controlled is None else _draw_poses(controlled, poses, draw)
    if upscaler:
        upscaler_settings = settings.draw_settings(size, settings.negative_prompt)
        drawing = enlarging.enlarged(upscaler, upscaler_settings, zip(drawing, itertools.cycle(requests)))
    scheduler = settings.scheduler and schedulers.SCHEDULERS[settings.scheduler].class_name

    # Save each picture as it comes, with its settings in its text
    text = {
        "negative_prompt": settings.negative_prompt or "",
        "seed": settings.seed,
        "steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "scheduler": scheduler or type(family.pipeline.scheduler).__name__,
        "model": settings.model_path,
    }
    if settings.lora or settings.lora_scale is not None:
        text |= {"lora": settings.lora or settings.model_path, "lora_scale": settings.scale}
    if family.source.without_t5:
        text |= {"without_t5": True}
    if start is not None:
        text |= {"image": settings.image, "mask": settings.mask or "", "strength": start.strength}
    if settings.upscaler:
        text |= {"upscaler": settings.upscaler}
    if settings.controlnet:
        text |= {"controlnet": settings.controlnet, "control_scale": settings.share_of_control}
        text |= {"draw_edges": settings.draw_edges}
    names = settings.control_image or ("",)
    pictures: list[Image.Image] = []
    written: list[Path] = []
    with disk.explained(lambda: f"{len(written)} pictures before it are whole"):
        bar = console.progress_bar(drawing, total=len(names) * len(requests), desc="Drawing")
        # the bar first, so that it gets to its end
        for picture, (name, (prompt, number)) in zip(bar, itertools.product(names, requests)):
            index = len(pictures) // settings.num_images % len(settings.prompt)
            own = {"prompt": prompt, "picture": number, "size": f"{picture.width}x{picture.height}", **text}
            pose = ""
            if name:
                own |= {"control_image": name}
                pose = f"-{_slug(Path(name).stem, 60)}"
            path = Path(settings.output_dir) / f"{_slug(prompt)}{pose}-{index}-seed{settings.seed}-{number}.png"
            path = Path(settings.output) if settings.output and not settings.grid else _free(path, own)
            if not (settings.output and settings.grid):
                written.append(_save(picture, path, own))
            pictures.append(picture)
        if settings.grid:
            sheet = sheets.make_grid(*_with_poses(pictures, poses, settings.num_images))
            own = {"prompt": " | ".join(settings.prompt), "size": f"{sheet.width}x{sheet.height}", **text}
            if poses:
                own |= {"control_image": " | ".join(settings.control_image)}
            path = Path(settings.output) if settings.output else _free(Path(settings.output_dir) / "grid.png", own)
            written.append(_save(sheet, path, own))
    print(*written, sep="\n")


def _choose_size(settings: InferSettings, family: Family, shown: Sequence[Image.Image]) -> Size:
    """Choose the size of the pictures: as the flags say, else of the shape of the first that is shown, if any."""
    if shown and family.facts.enlarges:
        return enlarging.fitting_size(family, (shown[0].height, shown[0].width), settings.height, settings.width)
    height, width = family.default_size
    if not shown:
        return settings.height or height, settings.width or width
    return starts.fitting_size(shown[0], (height, width), starts.step_of(family), settings.height, settings.width)


def _draw_poses(
    controlled: Controlled, poses: Sequence[Image.Image], draw: Callable[[], Iterator[Image.Image]]
) -> Iterator[Image.Image]:
    """Draw anew for each pose, which the ControlNet sees."""
    for pose in poses:
        controlled.show(pose)
        yield from draw()


def _with_poses(
    pictures: Sequence[Image.Image], poses: Sequence[Image.Image], count: int
) -> tuple[Sequence[Image.Image], int]:
    """Return the pictures of a sheet, and how many are in a row: `count` of each prompt, or all of a pose behind it."""
    if not poses:
        return pictures, count
    each = len(pictures) // len(poses)
    poses = [pose.resize(pictures[0].size) for pose in poses]
    rows = [[pose, *pictures[number * each : (number + 1) * each]] for number, pose in enumerate(poses)]
    return sum(rows, []), 1 + each


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
            if not path.exists():  # or no name that a file can have
                raise
        path = path.with_name(f"{path.stem.partition('~')[0]}~{number}.png")
    raise AssertionError("there is always a number")


def _slug(text: str, most: int = 160) -> str:
    """Make a part of a file name that reads like a text, in any script; file systems count its bytes."""
    words = re.sub(r"\W+", "-", text).strip("-")[:60]
    return words.encode()[:most].decode(errors="ignore") or "picture"


if __name__ == "__main__":
    console.run_command(main)
