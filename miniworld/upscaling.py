"""The second stage of the small Stable Diffusion: a network that enlarges a picture four times, and sees its prompt.

It trains on crops of large pictures, and on whole ones. So it enlarges the small model's pictures from 64 to 256 pixels
a side, and pictures of 16 pixels to 64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreambooth.data import randomness
from dreambooth.files import atomic
from dreambooth.models import saving
from miniworld import dataset, networks, packing, stages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from paddle import Tensor

    from dreambooth.system.types import Array, Network

LARGE = "large-pictures.npy"
PICTURES, SIDE = 8000, 256  # large pictures, and their pixels a side
SEED = dataset.SEED
UPDATES, BATCH = 5000, 16
ENLARGEMENT = 4
_PATHS = ("_name_or_path", "special_tokens_map_file")  # settings of the libraries


def draw_pictures(work: Path) -> None:
    """Draw large pictures of the world into one file: uint8 [count, 256, 256, 3]."""
    dataset.draw_into(work / LARGE, PICTURES, SIDE)


def crop(picture: Array, number: int) -> Array:
    """Return a picture of 64 x 64 from a large one: half of the numbers have all of it, others a half or a quarter."""
    stream = randomness.stream(SEED, "crop", number)
    reduction = (4, 4, 2, 1)[stream.integers(4)]
    side = len(picture) // reduction
    top, left = stream.integers(side - networks.SIZE + 1, size=2) * reduction
    width = networks.SIZE * reduction
    seen = picture[top : top + width, left : left + width].astype(np.float32)
    blocks = seen.reshape(networks.SIZE, reduction, networks.SIZE, reduction, 3)
    return blocks.mean((1, 3)).round().astype(np.uint8)


def train(work: Path) -> None:
    """Train the upscaler's UNet to predict the velocity.

    The loss has min-SNR weights (Hang et al., 2023). The small pictures have noise of all levels that the network can
    be given, as Ho et al. (2021, arXiv 2106.15282) train a second stage.
    """
    import paddle
    from paddle.nn.functional import avg_pool2d
    from ppdiffusers import AutoencoderKL, DDPMScheduler
    from ppdiffusers.training_utils import compute_snr

    from miniworld import training

    recipe = training.Recipe(updates=UPDATES, batch=BATCH, rate=1e-3, warmup=300)
    drawn = np.load(work / LARGE, mmap_mode="r")
    network, vae = networks.upscaler(), AutoencoderKL.from_pretrained(str(work / "vae"))
    vae.eval()
    schedule, noising = DDPMScheduler.from_config(networks.velocity_scheduler().config), networks.noising_scheduler()
    encode = dataset.caption_encoder(work)

    def loss_of(update: int, slots: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        keys = [(update, slot) for slot in slots]
        captions, crops = [], []
        for slot in slots:
            number = update * BATCH + slot
            index = randomness.pick(SEED, "upscaler", len(drawn), number)
            captions.append(dataset.caption(index, number))
            crops.append(crop(drawn[index], number))
        pixels = training.scale_pixels(np.stack(crops))
        with paddle.no_grad():
            clean = vae.encode(pixels).latent_dist.mean
        small = avg_pool2d(pixels, ENLARGEMENT)
        levels = paddle.to_tensor(randomness.integers(SEED, "noise levels", keys, networks.NOISE_LEVELS))
        further = paddle.to_tensor(randomness.normal(SEED, "augmentation", keys, tuple(small.shape[1:])))
        noise = paddle.to_tensor(randomness.normal(SEED, "upscaler", keys, tuple(clean.shape[1:])))
        timesteps = paddle.to_tensor(randomness.integers(SEED, "times", keys, schedule.config.num_train_timesteps))
        seen = [schedule.add_noise(clean, noise, timesteps), noising.add_noise(small, further, levels)]
        prediction = network(paddle.concat(seen, axis=1), timesteps, encode(captions), class_labels=levels).sample
        ratio = compute_snr(schedule, timesteps)
        errors = (prediction - schedule.get_velocity(clean, noise, timesteps)).square().mean([1, 2, 3])
        return (errors * paddle.clip(ratio, max=5.0) / (ratio + 1)).mean(), {}

    stages.train_network("upscaler", network, recipe, work, loss_of)


def scale_latents(vae: Network, factor: float) -> None:
    """Make a VAE's latents `factor` times as large; no picture changes."""
    import paddle

    channels = [vae.config.latent_channels]
    stages.standardize_latents(vae, mean=paddle.zeros(channels), std=paddle.full(channels, 1 / factor))


def pack(work: Path, folder: Path) -> None:
    """Write the upscaler as a pipeline into a folder, in half precision."""
    from ppdiffusers import AutoencoderKL, UNet2DConditionModel
    from ppdiffusers.transformers import CLIPTextModel

    vae = AutoencoderKL.from_pretrained(str(packing.last_result(work, "decoder", "vae")))
    scale_latents(vae, 1 / networks.UPSCALER_SCALE)
    pipeline = networks.upscaler_pipeline(
        vae,
        CLIPTextModel.from_pretrained(str(work / "clip")),
        dataset.read_tokenizer(work),
        UNet2DConditionModel.from_pretrained(str(work / "upscaler")),
    )
    for network in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        saving.to_float16(network)
    with atomic.whole_folder(folder / "upscaler") as temporary:
        pipeline.save_pretrained(str(temporary), safe_serialization=True)
        _forget_paths(temporary)


def _forget_paths(folder: Path) -> None:
    """Drop from a pipeline's files where its parts were loaded from."""
    for path in sorted(folder.glob("*/*.json")):
        settings = atomic.read_json(path)
        if isinstance(settings, dict):
            kept = {name: each for name, each in settings.items() if name not in _PATHS}
            if kept != settings:
                atomic.write_json(path, kept)
