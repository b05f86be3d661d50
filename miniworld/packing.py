"""Put the trained networks into the folder that the project carries, and take them out again."""

import shutil

from dreambooth.models import saving
from dreambooth.system.errors import BadInput
from miniworld import networks
from miniworld.stages import read_tokenizer


def unpack(folder, work):
    """Take a packed model apart, so that its UNet can learn on."""
    from ppdiffusers import AutoencoderKL, UNet2DConditionModel
    from ppdiffusers.transformers import CLIPModel

    parts = {
        "vae": lambda: AutoencoderKL.from_pretrained(str(folder / "model"), subfolder="vae"),
        "clip": lambda: CLIPModel.from_pretrained(str(folder / "clip"), dtype="float32"),
        "unet-start": lambda: UNet2DConditionModel.from_pretrained(str(folder / "model"), subfolder="unet"),
    }
    for name, load in parts.items():
        network = load()
        network.to(dtype="float32")
        network.save_pretrained(str(work / name), safe_serialization=True)
    shutil.copytree(folder / "model" / "tokenizer", work / "tokenizer")
    shutil.copy(folder / "detector.safetensors", work / "detector.safetensors")


def pack(work, folder):
    """Put pipeline, CLIP and detector into a folder, in half precision. A UNet that still learns is packed as its
    averaged weights stand, and so is a model whose decoder and image tower have not learned a second time."""
    from ppdiffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from ppdiffusers.transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel

    from miniworld.training import Recipe, Training

    tokenizer, name = read_tokenizer(work), str(work / "clip")
    if (work / "unet").exists():
        unet = UNet2DConditionModel.from_pretrained(str(work / "unet"))
    else:
        unfinished = Training("unet", networks.unet(), Recipe(updates=0, batch=0, rate=0.0), work)
        if not unfinished.folder.is_dir():
            raise BadInput(f"--stages pack: there is no UNet in {work} yet")
        unfinished.restore()
        unfinished.use_average()
        unet = unfinished.network
    decoder, image_tower = (
        str(work / later if (work / later).exists() else work / earlier)
        for later, earlier in (("decoder", "vae"), ("image-tower", "clip"))
    )
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(decoder),
        text_encoder=CLIPTextModel.from_pretrained(name),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=networks.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    clip = CLIPModel.from_pretrained(image_tower)
    for network in (pipeline.vae, pipeline.text_encoder, pipeline.unet, clip):
        saving.halve(network)
    shutil.rmtree(folder / "model", ignore_errors=True)
    pipeline.save_pretrained(str(folder / "model"), safe_serialization=True)
    shutil.rmtree(folder / "clip", ignore_errors=True)
    clip.save_pretrained(str(folder / "clip"), safe_serialization=True)
    tokenizer.save_pretrained(str(folder / "clip"))
    side = {"height": networks.SIZE, "width": networks.SIZE}
    CLIPImageProcessor(
        size={"shortest_edge": networks.SIZE}, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(str(folder / "clip"))
    shutil.copy(work / "detector.safetensors", folder / "detector.safetensors")
