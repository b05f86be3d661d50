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
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth.config import parser
from dreambooth.data import rare_words
from dreambooth.drawing import sampling, sheets
from dreambooth.drawing.inputs import edges, enlarging, painting, starts
from dreambooth.files import records, weight_files
from dreambooth.models import loading, pipeline_folder, schedulers, tokenizers
from dreambooth.run.drawings import cells as grids
from dreambooth.run.drawings import labelled, names
from dreambooth.run.drawings import poses as by_pose
from dreambooth.run.drawings.settings import InferSettings, is_lora
from dreambooth.system import console, disk, libraries, processes
from dreambooth.system.devices import cards
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image

    from dreambooth.models.family.base import Family
    from dreambooth.models.family.control import Controlled
    from dreambooth.run.drawings.axes import Axis
    from dreambooth.system.types import Size


def read_settings(argv: Sequence[str]) -> InferSettings:
    """Read the command line, and check everything that needs no library."""
    settings = parser.read_settings(InferSettings, argv, description=__doc__)
    if settings.lora:
        records.check_lora(settings.lora, "--lora")
    if settings.lora_scale is not None and not (settings.lora or is_lora(settings.model_path)):
        raise BadInput("--lora_scale needs --lora, or a LoRA as --model_path")
    if settings.output:
        disk.check_writable(Path(settings.output), "--output", is_file=True)
    else:
        disk.check_writable(Path(settings.output_dir), "--output_dir")
    if not settings.is_over_checkpoints:  # of a run that may have no result
        pipeline_folder.check_model(settings.model_path, flag="--model_path")
    if settings.upscaler:
        pipeline_folder.check_model(settings.upscaler, flag="--upscaler")
    return settings


class Models(NamedTuple):
    """The networks of a command, on their device and in their precision."""

    family: Family
    upscaler: Family | None
    controlled: Controlled | None


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    settings = read_settings(argv)
    start = starts.read_start(settings.image, settings.mask, settings.share_drawn)
    poses = [starts.read(path, "--control_image") for path in settings.control_image]
    if start is None and None in (settings.height, settings.width):
        starts.check_alike(poses, settings.control_image)
    libraries.load(weight_files.READERS, settings.verbose)
    cards.check_precision(settings.mixed_precision)
    if settings.sides:
        draw_grid(settings, *settings.sides, start)
    else:
        draw_pictures(settings, start, poses)


def load(settings: InferSettings) -> Models:
    """Load the model with its LoRA, and what it draws with."""
    source = loading.Source(settings.model_path, without_t5=settings.without_t5 or records.is_without_t5(settings.lora))
    family = loading.load_family(source, "--model_path", lora_scale=1.0 if settings.lora else settings.scale)
    if settings.lora:
        loading.merge_lora(family, settings.lora, settings.scale, "--lora")
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
    return Models(family, upscaler, controlled)


def warn_of_prompts(settings: InferSettings, family: Family) -> None:
    """Warn of prompts that the model does not read as they were meant."""
    lost = tokenizers.truncations(family, settings.prompt)
    for warning in (*lost, *rare_words.spelled_out(family.tokenizers[0], settings.prompt)):
        console.warn(warning)


def settle(
    settings: InferSettings, family: Family, start: starts.Start | None, poses: Sequence[Image.Image] = ()
) -> tuple[Size, starts.Start | None]:
    """Settle the size of the pictures, and fit what they begin from to it."""
    if start is not None and family.facts.enlarges and settings.strength is None:
        start = dataclasses.replace(start, strength=1.0)
    if start is not None:
        painting.check(family, start, settings.num_inference_steps)
    size = enlarging.choose_size(family, [start.picture] if start else poses, settings.height, settings.width)
    return size, start and start.fitted(painting.size_of_start(family, size))


def draw_pictures(settings: InferSettings, start: starts.Start | None, poses: Sequence[Image.Image]) -> None:
    """Draw all prompts, for each pose if there are any."""
    family, upscaler, controlled = load(settings)
    warn_of_prompts(settings, family)
    size, start = settle(settings, family, start, poses)
    poses = [starts.fitted(each, size) for each in poses]
    if settings.draw_edges:
        poses = [edges.draw_edges(each) for each in poses]
    requests = sampling.requests_for(settings.prompt, settings.num_images)
    drawn = settings.draw_settings(size, settings.negative_prompt)
    draw = functools.partial(sampling.draw, family, drawn, requests, start)
    drawing = draw() if controlled is None else by_pose.draw(controlled, poses, draw)
    if upscaler:
        drawing = enlarging.enlarged(upscaler, drawn, zip(drawing, itertools.cycle(requests)))

    # Save each picture as it comes, with its settings in its text
    text = text_of(settings, family, start)
    if settings.controlnet:
        text |= {"controlnet": settings.controlnet, "control_scale": settings.share_of_control}
        text |= {"draw_edges": settings.draw_edges}
    shown = settings.control_image or ("",)
    pictures: list[Image.Image] = []
    written: list[Path] = []
    with disk.explained(lambda: f"{len(written)} pictures before it are whole"):
        bar = console.progress_bar(drawing, total=len(shown) * len(requests), desc="Drawing")
        # the bar first, so that it gets to its end
        for picture, (name, (prompt, number)) in zip(bar, itertools.product(shown, requests)):
            index = len(pictures) // settings.num_images % len(settings.prompt)
            own = {"prompt": prompt, "picture": number, "size": f"{picture.width}x{picture.height}", **text}
            pose = ""
            if name:
                own |= {"control_image": name}
                pose = f"-{names.slug(Path(name).stem, 60)}"
            path = Path(settings.output_dir) / f"{names.slug(prompt)}{pose}-{index}-seed{settings.seed}-{number}.png"
            path = Path(settings.output) if settings.output and settings.grid is None else names.free(path, own)
            if not (settings.output and settings.grid is not None):
                written.append(names.save(picture, path, own))
            pictures.append(picture)
        if settings.grid is not None:
            sheet = sheets.make_grid(*by_pose.with_poses(pictures, poses, settings.num_images))
            own = {"prompt": " | ".join(settings.prompt), "size": f"{sheet.width}x{sheet.height}", **text}
            if poses:
                own |= {"control_image": " | ".join(settings.control_image)}
            path = Path(settings.output) if settings.output else names.free(Path(settings.output_dir) / "grid.png", own)
            written.append(names.save(sheet, path, own))
    print(*written, sep="\n")


def text_of(settings: InferSettings, family: Family, start: starts.Start | None) -> dict[str, Any]:
    """Return the settings that stand in the text of each picture."""
    scheduler = settings.scheduler and schedulers.SCHEDULERS[settings.scheduler].class_name
    text: dict[str, Any] = {
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
    return text


def draw_grid(settings: InferSettings, rows: Axis, columns: Axis, start: starts.Start | None) -> None:
    """Draw the pictures of a grid that are not there yet; then the sheet and the page."""
    place = Path(settings.output) if settings.output else Path(settings.output_dir) / "grid.png"
    folder = place.with_name(f"{place.stem}-cells")
    cells = grids.lay_out(rows, columns, settings.by_axis, folder, settings.beside_axes(start))

    models = itertools.count()

    def load_family(cell: grids.Cell) -> Family:
        family = load(settings.like(cell.values)).family
        if next(models) == 0:
            warn_of_prompts(settings, family)
        return family

    def draw(family: Family, several: list[grids.Cell]) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
        own = settings.like(several[0].values)
        size, fitted = settle(own, family, start)
        requests = [(str(cell.values["prompt"]), 0) for cell in several]
        drawn = own.draw_settings(size, own.negative_prompt)
        if processes.is_on_gpu():  # where a batch may change bits, which sampling checks on the CPU alone
            drawn = dataclasses.replace(drawn, batch_size=1)
        drawing = sampling.draw(family, drawn, requests, fitted)
        for picture, (prompt, number) in zip(drawing, requests):
            about = {"prompt": prompt, "picture": number, "size": f"{picture.width}x{picture.height}"}
            yield picture, {**about, **text_of(own, family, fitted)}

    grids.draw_missing(cells, load_family, draw)
    varied = {rows.name, columns.name}
    beside = {"negative prompt": settings.negative_prompt, "LoRA": settings.lora, "image": settings.image}
    shared = {**beside, **settings.by_axis}
    common = {name: str(value) for name, value in shared.items() if name not in varied and value is not None}
    print(*labelled.write(cells, rows, columns, place, common), sep="\n")


if __name__ == "__main__":
    console.run_command(main)
