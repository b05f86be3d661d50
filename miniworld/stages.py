"""The training stages: a network, a recipe, training data and a loss for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreambooth.data import randomness
from dreambooth.files import atomic
from dreambooth.system import console, processes
from miniworld import dataset, networks, world

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from paddle import Tensor

    from dreambooth.system.types import Array, Network
    from miniworld.training import LossFunction, Recipe

SEED = dataset.SEED


def make_tokenizer(work: Path) -> None:
    """Train the tokenizer."""
    from miniworld import tokenizer

    tokenizer.make(work / "tokenizer", SEED, dataset.CAPTIONS)


def save_network(network: Network, folder: Path) -> None:
    """Write a network's folder whole; a stage is complete when its folder exists."""
    with atomic.whole_folder(folder) as temporary:
        network.save_pretrained(str(temporary), safe_serialization=True)


def train_vae(work: Path) -> None:
    """Train the VAE, on strangers too: it must keep colours and marks that the world lacks."""
    from miniworld import training

    recipe = training.Recipe(updates=4800, batch=8, rate=1.5e-3, cooldown=0.4)
    network, drawn = networks.vae(), dataset.read_pictures(work)
    training.Training("vae", network, recipe, work).run(_vae_loss(network, drawn, "vae", recipe.batch))
    if processes.is_first():
        normalize_latents(network, training.scale_pixels(drawn[:512]))
        save_network(network, work / "vae")


def train_decoder(work: Path) -> None:
    """Train the VAE's decoder alone: the latents stay the same, so the UNet stays valid."""
    from ppdiffusers import AutoencoderKL

    from miniworld import training

    recipe = training.Recipe(updates=3000, batch=8, rate=1e-3, cooldown=0.7)
    network = AutoencoderKL.from_pretrained(str(work / "vae"))
    _freeze(network.encoder, network.quant_conv)
    loss_of = _vae_loss(network, dataset.read_pictures(work), "decoder", recipe.batch)
    train_network("decoder", network, recipe, work, loss_of)


def train_network(name: str, network: Network, recipe: Recipe, work: Path, loss_of: LossFunction) -> None:
    """Train a network and write it into the folder `name`."""
    from miniworld import training

    training.Training(name, network, recipe, work).run(loss_of)
    if processes.is_first():
        save_network(network, work / name)


def _freeze(*networks: Network) -> None:
    for network in networks:
        for parameter in network.parameters():
            parameter.stop_gradient = True


def _vae_loss(network: Network, drawn: Array, purpose: str, batch: int) -> LossFunction:
    """Return a loss function: L1, MSE and a small share of the KL divergence."""
    import paddle

    from miniworld import training

    def loss_of(update: int, slots: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        things = dataset.mixed_things(drawn, purpose, [update * batch + slot for slot in slots], strangers=0.4)
        pixels = training.scale_pixels(np.stack([picture for picture, *_ in things]))
        latents = network.encode(pixels).latent_dist
        noise = randomness.normal(SEED, purpose, [(update, slot) for slot in slots], tuple(latents.mean.shape[1:]))
        decoded = network.decode(latents.mean + latents.std * paddle.to_tensor(noise)).sample
        square = (decoded - pixels).square().mean()
        loss = (decoded - pixels).abs().mean() + square + 1e-6 * latents.kl().mean()
        return loss, {"psnr": 10 * paddle.log10(4 / square)}

    return loss_of


def normalize_latents(vae: Network, sample: Tensor) -> None:
    """Change quant_conv and post_quant_conv so that the latents have mean 0 and deviation 1 in each channel.

    The VAE's pictures stay the same; `sample` are the pictures [n, 3, 64, 64] for mean and deviation.
    """
    import paddle

    with paddle.no_grad():
        latents = paddle.concat([vae.encode(sample[k : k + 32]).latent_dist.mean for k in range(0, len(sample), 32)])
        standardize_latents(vae, latents.mean([0, 2, 3]), latents.std([0, 2, 3]))


def standardize_latents(vae: Network, mean: Tensor, std: Tensor) -> None:
    """Subtract `mean` from each channel of the latents, and divide by `std`; the VAE's pictures stay the same."""
    import paddle

    with paddle.no_grad():
        before, after = vae.quant_conv, vae.post_quant_conv
        # the outputs of quant_conv are the means, then the logarithms of the variances
        scale = paddle.concat([1 / std, paddle.ones_like(mean)])
        bias = before.bias * scale - paddle.concat([mean / std, 2 * paddle.log(std)])
        before.weight.set_value(before.weight * scale.reshape([-1, 1, 1, 1]))
        before.bias.set_value(bias)
        after.bias.set_value(after.bias + (after.weight[:, :, 0, 0] * mean).sum(1))
        after.weight.set_value(after.weight * std.reshape([1, -1, 1, 1]))


def train_clip(work: Path) -> None:
    """Train both towers of CLIP, on strangers too: they show the colours, marks and hats of subjects."""
    from miniworld import training

    recipe = training.Recipe(updates=2000, batch=96, rate=1e-3, decay=0.1)
    network = networks.clip(dataset.read_tokenizer(work))
    train_network("clip", network, recipe, work, _clip_loss(network, work, "clip", recipe.batch))


def train_image_tower(work: Path) -> None:
    """Train CLIP's image tower alone: the text tower stays the same, so the UNet stays valid."""
    from ppdiffusers.transformers import CLIPModel

    from miniworld import training

    recipe = training.Recipe(updates=2000, batch=96, rate=1e-3, decay=0.1, cooldown=0.7)
    network = CLIPModel.from_pretrained(str(work / "clip"))
    _freeze(network.text_model, network.text_projection)
    train_network("image-tower", network, recipe, work, _clip_loss(network, work, "image tower", recipe.batch))


def _clip_loss(network: Network, work: Path, purpose: str, batch: int) -> LossFunction:
    """Return a loss function: CLIP's contrastive loss, plus a classification among the prompts of all classes.

    Without the second term, the towers do not separate similar classes.
    """
    import paddle
    from paddle.nn.functional import cross_entropy, normalize

    from miniworld import training

    tokenizer, drawn = dataset.read_tokenizer(work), dataset.read_pictures(work)
    class_prompts = [f"a photo of a {kind}" for kind in world.CLASSES]

    def loss_of(update: int, slots: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        numbers = [update * batch + slot for slot in slots]
        things = list(dataset.mixed_things(drawn, purpose, numbers, strangers=0.4))
        pixels = training.scale_pixels(np.stack([picture for picture, *_ in things]))
        captions = [world.caption(look, scene, SEED + 1, number) for number, (_, look, scene) in zip(numbers, things)]
        kinds = paddle.to_tensor([world.CLASSES.index(look.kind) for _, look, _ in things])
        scale = paddle.clip(network.logit_scale, max=4.6).exp()
        images = normalize(network.get_image_features(pixels)) * scale
        texts = normalize(network.get_text_features(dataset.token_ids(tokenizer, captions + class_prompts)))
        matches, classes = images @ texts[: len(slots)].T, images @ texts[len(slots) :].T
        pairs = paddle.arange(len(slots))
        loss = (cross_entropy(matches, pairs) + cross_entropy(matches.T, pairs)) / 2 + cross_entropy(classes, kinds)
        right = {"right": matches.argmax(1) == pairs, "class_right": classes.argmax(1) == kinds}
        return loss, {name: each.astype("float32").mean() for name, each in right.items()}

    return loss_of


def train_detector(work: Path) -> None:
    """Train the detector on looks of all colours, also those of the subjects: a dog may be purple."""
    from miniworld import training
    from miniworld.detector import Detector

    recipe = training.Recipe(updates=2500, batch=64, rate=2e-3)
    network = Detector()

    def loss_of(update: int, slots: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        numbers = [update * recipe.batch + slot for slot in slots]
        things = [world.stranger(SEED, number, like_subjects=True) for number in numbers]
        drawn = [world.picture(*thing, SEED + 2, number) for thing, number in zip(things, numbers)]
        blurred = np.stack([np.asarray(dataset.blur(picture, number)) for picture, number in zip(drawn, numbers)])
        loss, right = network.loss(training.scale_pixels(blurred), [look for look, _ in things])
        return loss, {"right": right}

    training.Training("detector", network, recipe, work).run(loss_of)
    if processes.is_first():
        with atomic.whole_file(work / "detector.safetensors") as temporary:
            network.save(temporary)


def encode_latents(work: Path) -> None:
    """Encode all pictures into one file of latent means: float16 [count, 4, 16, 16].

    The deviation is negligible.
    """
    import paddle
    from ppdiffusers import AutoencoderKL

    from miniworld import training

    drawn = dataset.read_pictures(work)
    vae = AutoencoderKL.from_pretrained(str(work / "vae"))
    vae.eval()
    mine = np.array_split(np.arange(len(drawn)), processes.world_size())[processes.rank()]
    rows = []
    with paddle.no_grad():
        for first in console.progress_bar(range(0, len(mine), 32), desc="latents"):
            rows.append(vae.encode(training.scale_pixels(drawn[mine[first : first + 32]])).latent_dist.mean.numpy())
    _save_array(work / f"latents-{processes.rank()}.npy", np.concatenate(rows).astype(np.float16))
    processes.wait()
    if processes.is_first():
        parts = [work / f"latents-{rank}.npy" for rank in range(processes.world_size())]
        _save_array(work / "latents.npy", np.concatenate([np.load(part) for part in parts]))
        for part in parts:
            part.unlink()


def _save_array(path: Path, array: Array) -> None:
    with atomic.whole_file(path, size=array.nbytes) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def train_unet(work: Path, updates: int) -> None:
    """Train the UNet to predict noise.

    The loss has min-SNR weights (Hang et al., 2023), which shorten the training.
    """
    import paddle
    from ppdiffusers import DDPMScheduler
    from ppdiffusers.training_utils import compute_snr

    from miniworld import training

    recipe = training.Recipe(updates=updates, batch=16, rate=1e-3, warmup=300)
    latents = np.load(work / "latents.npy")
    network = networks.unet()
    schedule = DDPMScheduler.from_config(networks.scheduler().config)
    encode = dataset.caption_encoder(work)

    def loss_of(update: int, slots: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        keys = [(update, slot) for slot in slots]
        captions, chosen = [], []
        for slot in slots:
            number = update * recipe.batch + slot
            index = randomness.pick(SEED, "unet", len(latents), number)
            captions.append(dataset.caption(index, number))
            chosen.append(index)
        clean = paddle.to_tensor(latents[chosen].astype(np.float32))
        noise = paddle.to_tensor(randomness.normal(SEED, "unet", keys, tuple(clean.shape[1:])))
        timesteps = paddle.to_tensor(randomness.integers(SEED, "times", keys, schedule.config.num_train_timesteps))
        prediction = network(schedule.add_noise(clean, noise, timesteps), timesteps, encode(captions)).sample
        ratio = compute_snr(schedule, timesteps)
        loss = ((prediction - noise).square().mean([1, 2, 3]) * paddle.clip(ratio, max=5.0) / ratio).mean()
        return loss, {}

    if (work / "unet-start").exists():
        network = type(network).from_pretrained(str(work / "unet-start"))
    train_network("unet", network, recipe, work, loss_of)
