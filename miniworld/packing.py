"""The packed model: the trained networks as the project carries them, in half precision."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from dreambooth.files import atomic
from dreambooth.models import saving
from dreambooth.system.errors import BadInput
from miniworld import dataset, networks, stages

if TYPE_CHECKING:
    from pathlib import Path

    from dreambooth.system.types import Network


def unpack(folder: Path, work: Path) -> None:
    """Write a packed model's parts as the results of the stages, so that its UNet can train further."""
    from ppdiffusers import AutoencoderKL, UNet2DConditionModel
    from ppdiffusers.transformers import CLIPModel

    parts = {
        "vae": lambda: AutoencoderKL.from_pretrained(str(folder / "model"), subfolder="vae"),
        "clip": lambda: CLIPModel.from_pretrained(str(folder / "clip"), dtype="float32"),
        "unet-start": lambda: UNet2DConditionModel.from_pretrained(str(folder / "model"), subfolder="unet"),
    }
    for name, load in parts.items():
        network = load()  # type: ignore[no-untyped-call]
        network.to(dtype="float32")
        stages.save_network(network, work / name)
    _copy(folder / "detector.safetensors", work / "detector.safetensors")
    with atomic.whole_folder(work / "tokenizer") as temporary:  # last: its folder marks a complete copy
        shutil.copytree(folder / "model/tokenizer", temporary, dirs_exist_ok=True)


def pack(work: Path, folder: Path) -> None:
    """Write pipeline, CLIP and detector into a folder, in half precision.

    An unfinished UNet has the averaged weights of its checkpoint. Without the stages decoder and image-tower, the
    results of the stages vae and clip take their place.
    """
    from ppdiffusers import AutoencoderKL
    from ppdiffusers.transformers import CLIPModel, CLIPTextModel

    tokenizer = dataset.read_tokenizer(work)
    unet = _trained_unet(work)
    vae, clip = last_result(work, "decoder", "vae"), last_result(work, "image-tower", "clip")
    pipeline = networks.pipeline(
        AutoencoderKL.from_pretrained(str(vae)), CLIPTextModel.from_pretrained(str(work / "clip")), tokenizer, unet
    )
    towers = CLIPModel.from_pretrained(str(clip))
    for network in (pipeline.vae, pipeline.text_encoder, pipeline.unet, towers):
        saving.to_float16(network)
    with atomic.whole_folder(folder / "model") as temporary:
        pipeline.save_pretrained(str(temporary), safe_serialization=True)
    with atomic.whole_folder(folder / "clip") as temporary:
        towers.save_pretrained(str(temporary), safe_serialization=True)
        tokenizer.save_pretrained(str(temporary))
        networks.image_processor().save_pretrained(str(temporary))
    _copy(work / "detector.safetensors", folder / "detector.safetensors")


def last_result(work: Path, later: str, earlier: str) -> Path:
    """Return the folder of the later of two stages that train a part, or else of the earlier one."""
    return work / later if (work / later).exists() else work / earlier


def _copy(path: Path, to: Path) -> None:
    with atomic.whole_file(to, size=path.stat().st_size) as temporary:
        shutil.copyfile(path, temporary)


def _trained_unet(work: Path) -> Network:
    """Read the UNet, or the averaged weights of its checkpoint; neither of them is a BadInput."""
    from ppdiffusers import UNet2DConditionModel

    from miniworld.training import Recipe, Training

    if (work / "unet").exists():
        return UNet2DConditionModel.from_pretrained(str(work / "unet"))
    unfinished = Training("unet", networks.unet(), Recipe(updates=0, batch=0, rate=0.0), work)
    if not unfinished.folder.is_dir():
        raise BadInput(f"--stages pack: {work} has no unet; add the stage unet")
    unfinished.restore()
    unfinished.use_average()
    return unfinished.network
