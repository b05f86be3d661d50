"""The settings of infer.py, and what of them decides on each picture of a grid."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreambooth.config import commands
from dreambooth.config.fields import check_png, flag
from dreambooth.drawing.inputs import starts
from dreambooth.files import records
from dreambooth.run import checkpoints
from dreambooth.run.drawings import axes, cells
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL.Image import Image


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
    grid: tuple[str, ...] | None = flag(
        "also put all pictures on one sheet, a row for each prompt, or for each pose; or draw a grid with labels over"
        " one or two of prompt, seed, checkpoint, lora_scale, guidance, steps, scheduler, as in"
        " --grid checkpoint=all seed=0-3", nargs="*", metavar="AXIS")
    # fmt: on

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        for name, side in (("height", self.height), ("width", self.width)):
            if side is not None and (side <= 0 or side % starts.STEP):
                raise BadInput(f"--{name} {side}: must be a positive multiple of {starts.STEP}")
        count = len(self.prompt) * self.num_images * max(1, len(self.control_image))
        if self.output and count > 1 and self.grid is None:
            raise BadInput(f"--output {self.output}: one file for {count} pictures; add --grid or use --output_dir")
        for name in ("controlnet", "upscaler"):
            if self.grid and getattr(self, name):
                raise BadInput(f"--grid {' '.join(self.grid)} can't be combined with --{name}; --grid alone can")
        if self.grid and self.num_images > 1:
            raise BadInput(f"--num_images {self.num_images}: a grid has a picture in each place; give --grid seed=0-3")
        check_png("--output", self.output)
        commands.check_prompts(self.prompt)  # which may warn

    @functools.cached_property
    def sides(self) -> tuple[axes.Axis, axes.Axis] | None:
        """The rows and columns of a grid, where there is one with labels."""
        if not self.grid:
            return None
        has_lora = bool(self.lora) or is_lora(self.model_path) or _has_lora_checkpoints(self.model_path)
        return axes.read(self.grid, self.prompt, self.model_path, has_lora)

    @property
    def is_over_checkpoints(self) -> bool:
        """Whether a grid draws with checkpoints of a run."""
        return any(axis.name == "checkpoint" for axis in self.sides or ())

    @property
    def by_axis(self) -> dict[str, Any]:
        """The settings that a grid can vary, by the names of its axes."""
        return {
            "prompt": self.prompt[0],
            "seed": self.seed,
            "checkpoint": self.model_path,
            "lora_scale": self.lora_scale,
            "guidance": self.guidance_scale,
            "steps": self.num_inference_steps,
            "scheduler": self.scheduler,
        }

    def like(self, values: Mapping[str, Any]) -> InferSettings:
        """Return the settings of one picture, which has these values by the names of axes."""
        own = {"model_path": values["checkpoint"], "guidance_scale": values["guidance"], "grid": None, "output": None}
        own |= {"num_inference_steps": values["steps"], "prompt": (values["prompt"],)}
        return dataclasses.replace(self, **own, **{name: values[name] for name in ("seed", "lora_scale", "scheduler")})

    def beside_axes(self, start: starts.Start | None) -> dict[str, Any]:
        """Return what else decides on a picture of a grid."""
        names = ("negative_prompt", "height", "width", "lora", "image", "mask", "strength", "without_t5")
        own = {name: getattr(self, name) for name in (*names, "mixed_precision", "vae_tiling")}
        shown = [_hash(start.picture), _hash(start.mask)] if start else None
        return {**own, "files of the LoRA": cells.summary_of_files(self.lora), "pixels": shown}

    @property
    def scale(self) -> float:
        """The share of the LoRA that is put into the model."""
        return 1.0 if self.lora_scale is None else self.lora_scale


def is_lora(model_path: str) -> bool:
    """Check whether a folder has a LoRA beside its base, or a checkpoint of one."""
    base = records.find_base(model_path)
    return base is not None and base.is_lora


def _has_lora_checkpoints(model_path: str) -> bool:
    whole, _ = checkpoints.scan(model_path)
    return bool(whole) and is_lora(str(whole[-1].folder))


def _hash(picture: Image | None) -> str | None:
    return None if picture is None else hashlib.sha256(picture.tobytes()).hexdigest()
