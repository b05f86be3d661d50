"""What each network of the small Stable Diffusion learns, and from what."""

import functools

import numpy as np
from PIL import ImageFilter

from dreambooth.files import atomic
from dreambooth.system import console, processes, randomness
from miniworld import networks, world

SEED = 0
PICTURES = 60_000


def draw_pictures(work):
    """Draw the world's pictures into one file: uint8 [count, 64, 64, 3]."""
    unfinished = work / "pictures.unfinished.npy"
    shape = (PICTURES, networks.SIZE, networks.SIZE, 3)
    drawn = np.lib.format.open_memmap(unfinished, "w+", np.uint8, shape)
    for number in console.progress_bar(range(PICTURES), desc="pictures"):
        drawn[number] = np.asarray(world.picture(*world.sample(SEED, number), SEED, number))
    drawn.flush()
    unfinished.rename(work / "pictures.npy")


def read_pictures(work):
    return np.load(work / "pictures.npy", mmap_mode="r")


def make_tokenizer(work):
    from miniworld import tokenizer

    tokenizer.make(work / "tokenizer", SEED)


def read_tokenizer(work):
    from ppdiffusers.transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(work / "tokenizer"))


def tokens(tokenizer, captions):
    settings = dict(padding="max_length", max_length=networks.TOKENS, truncation=True, return_tensors="pd")
    return tokenizer(captions, **settings).input_ids


def some_things(drawn, purpose, numbers, strangers):
    """(picture, look, scene) for each number: of the world, or in a share of the numbers a stranger."""
    for number in numbers:
        if randomness.stream(SEED, f"{purpose} stranger", number).random() < strangers:
            look, scene = world.stranger(SEED, number)
            yield np.asarray(world.picture(look, scene, SEED + 1, number)), look, scene
        else:
            index = randomness.pick(SEED, purpose, len(drawn), number)
            yield drawn[index], *world.sample(SEED, index)


def keep(network, folder):
    """Save a network whole or not at all: a stage whose folder is there is done."""
    with atomic.written_whole(folder) as unfinished:
        network.save_pretrained(str(unfinished), safe_serialization=True)


def train_vae(work):
    """Pixels to latents and back, of strangers too: colours and marks that the world lacks must survive."""
    from miniworld.training import Recipe, Training, pixels

    recipe = Recipe(updates=4800, batch=8, rate=1.5e-3, cooldown=0.4)
    network, drawn = networks.vae(), read_pictures(work)
    Training("vae", network, recipe, work).run(vae_loss(network, drawn, "vae", recipe.batch))
    if processes.is_first():
        fold(network, pixels(drawn[:512]))
        keep(network, work / "vae")


def train_decoder(work):
    """The way back once more, alone: the latents stay what they are, so the UNet need not learn again."""
    from ppdiffusers import AutoencoderKL

    from miniworld.training import Recipe, Training

    recipe = Recipe(updates=3000, batch=8, rate=1e-3, cooldown=0.7)
    network = AutoencoderKL.from_pretrained(str(work / "vae"))
    freeze(network.encoder, network.quant_conv)
    loss_of = vae_loss(network, read_pictures(work), "decoder", recipe.batch)
    Training("decoder", network, recipe, work).run(loss_of)
    if processes.is_first():
        keep(network, work / "decoder")


def freeze(*networks):
    for network in networks:
        for parameter in network.parameters():
            parameter.stop_gradient = True


def vae_loss(network, drawn, purpose, batch):
    import paddle

    from miniworld.training import pixels

    def loss_of(update, slots):
        things = some_things(drawn, purpose, [update * batch + slot for slot in slots], strangers=0.4)
        wanted = pixels(np.stack([picture for picture, *_ in things]))
        latents = network.encode(wanted).latent_dist
        random = randomness.normal(SEED, purpose, [(update, slot) for slot in slots], tuple(latents.mean.shape[1:]))
        got = network.decode(latents.mean + latents.std * paddle.to_tensor(random)).sample
        square = (got - wanted).square().mean()
        loss = (got - wanted).abs().mean() + square + 1e-6 * latents.kl().mean()
        return loss, {"psnr": 10 * paddle.log10(4 / square)}

    return loss_of


def fold(vae, sample):
    """Change quant_conv and post_quant_conv so that latents have mean 0 and deviation 1 in each channel: it is exact,
    and the UNet sees unit scale."""
    import paddle

    with paddle.no_grad():
        latents = paddle.concat([vae.encode(sample[k : k + 32]).latent_dist.mean for k in range(0, len(sample), 32)])
        mean, std = latents.mean([0, 2, 3]), latents.std([0, 2, 3])
        none, before, after = paddle.zeros_like(mean), vae.quant_conv, vae.post_quant_conv
        # its outputs are the means, and then the logarithms of the variances
        scale = paddle.concat([1 / std, none + 1])
        bias = before.bias * scale - paddle.concat([mean / std, 2 * paddle.log(std)])
        before.weight.set_value(before.weight * scale.reshape([-1, 1, 1, 1]))
        before.bias.set_value(bias)
        after.bias.set_value(after.bias + (after.weight[:, :, 0, 0] * mean).sum(1))
        after.weight.set_value(after.weight * std.reshape([1, -1, 1, 1]))


def train_clip(work):
    """Both towers, on the world's pictures and on strangers, so that colours, marks and hats of subjects are seen."""
    from miniworld.training import Recipe, Training

    recipe = Recipe(updates=2000, batch=96, rate=1e-3, decay=0.1)
    network = networks.clip(read_tokenizer(work))
    Training("clip", network, recipe, work).run(clip_loss(network, work, "clip", recipe.batch))
    if processes.is_first():
        keep(network, work / "clip")


def train_image_tower(work):
    """The tower of the pictures once more, alone: the text tower, by which the UNet is conditioned, stays."""
    from ppdiffusers.transformers import CLIPModel

    from miniworld.training import Recipe, Training

    recipe = Recipe(updates=2000, batch=96, rate=1e-3, decay=0.1, cooldown=0.7)
    network = CLIPModel.from_pretrained(str(work / "clip"))
    freeze(network.text_model, network.text_projection)
    Training("image-tower", network, recipe, work).run(clip_loss(network, work, "image tower", recipe.batch))
    if processes.is_first():
        keep(network, work / "image-tower")


def clip_loss(network, work, purpose, batch):
    """CLIP's own loss, in which pictures and captions of a batch find each other; and for each picture once more the
    choice among the plain prompts of all classes, without which the towers leave similar classes together."""
    import paddle
    from paddle.nn.functional import cross_entropy, normalize

    from miniworld.training import pixels

    tokenizer, drawn = read_tokenizer(work), read_pictures(work)
    class_prompts = [f"a photo of a {kind}" for kind in world.CLASSES]

    def loss_of(update, slots):
        numbers = [update * batch + slot for slot in slots]
        things = list(some_things(drawn, purpose, numbers, strangers=0.4))
        shown = [picture for picture, *_ in things]
        captions = [world.caption(*thing, SEED + 1, number) for number, (_, *thing) in zip(numbers, things)]
        kinds = paddle.to_tensor([world.CLASSES.index(look.kind) for _, look, _ in things])
        scale = paddle.clip(network.logit_scale, max=4.6).exp()
        seen = normalize(network.get_image_features(pixels(np.stack(shown)))) * scale
        read = normalize(network.get_text_features(tokens(tokenizer, captions + class_prompts)))
        agreement, choice = seen @ read[: len(slots)].T, seen @ read[len(slots) :].T
        pairs = paddle.arange(len(slots))
        loss = (cross_entropy(agreement, pairs) + cross_entropy(agreement.T, pairs)) / 2 + cross_entropy(choice, kinds)
        found = {"right": agreement.argmax(1) == pairs, "class_right": choice.argmax(1) == kinds}
        return loss, {name: right.astype("float32").mean() for name, right in found.items()}

    return loss_of


def train_detector(work):
    """On looks of all colours, those of the subjects among them: it would learn that dogs are never purple."""
    from miniworld.detector import Detector
    from miniworld.training import Recipe, Training, pixels

    recipe = Recipe(updates=2500, batch=64, rate=2e-3)
    network = Detector()

    def loss_of(update, slots):
        numbers = [update * recipe.batch + slot for slot in slots]
        things = [world.stranger(SEED, number, like_subjects=True) for number in numbers]
        drawn = [soft(world.picture(*thing, SEED + 2, number), number) for thing, number in zip(things, numbers)]
        loss, right = network.loss(pixels(np.stack([np.asarray(each) for each in drawn])), [look for look, _ in things])
        return loss, {"right": right}

    Training("detector", network, recipe, work).run(loss_of)
    if processes.is_first():
        network.save(work / "detector.safetensors")


def soft(picture, number):
    """Half of the pictures are blurred a little, as those are that come out of a VAE."""
    radius = randomness.stream(SEED, "blur", number).uniform(-1, 1)
    return picture.filter(ImageFilter.GaussianBlur(radius)) if radius > 0 else picture


def encode_latents(work):
    """The latents of all pictures: float16 [count, 4, 16, 16]. The VAE's deviation is too small to matter."""
    import paddle
    from ppdiffusers import AutoencoderKL

    from miniworld.training import pixels

    drawn = read_pictures(work)
    vae = AutoencoderKL.from_pretrained(str(work / "vae"))
    vae.eval()
    mine = np.array_split(np.arange(len(drawn)), processes.world_size())[processes.rank()]
    rows = []
    with paddle.no_grad():
        for first in console.progress_bar(range(0, len(mine), 32), desc="latents"):
            rows.append(vae.encode(pixels(drawn[mine[first : first + 32]])).latent_dist.mean.numpy())
    np.save(work / f"latents-{processes.rank()}.npy", np.concatenate(rows).astype(np.float16))
    processes.wait()
    if processes.is_first():
        parts = [work / f"latents-{rank}.npy" for rank in range(processes.world_size())]
        np.save(work / "latents.unfinished.npy", np.concatenate([np.load(part) for part in parts]))
        (work / "latents.unfinished.npy").rename(work / "latents.npy")
        for part in parts:
            part.unlink()


def train_unet(work, updates):
    """Noise prediction, as in Stable Diffusion; one caption in ten is left out, so that guidance works. The loss of
    each timestep has its min-SNR weight (Hang et al., 2023), which learns sooner."""
    import paddle
    from ppdiffusers import DDPMScheduler
    from ppdiffusers.training_utils import compute_snr

    from miniworld.training import Recipe, Training

    recipe = Recipe(updates=updates, batch=16, rate=1e-3, warmup=300)
    latents = np.load(work / "latents.npy")
    network = networks.unet()
    schedule = DDPMScheduler.from_config(networks.scheduler().config)
    encode = caption_encoder(work)

    def loss_of(update, slots):
        places = [(update, slot) for slot in slots]
        captions, chosen = [], []
        for slot in slots:
            number = update * recipe.batch + slot
            index = randomness.pick(SEED, "unet", len(latents), number)
            left_out = randomness.stream(SEED, "left out", number).random() < 0.1
            captions.append("" if left_out else world.caption(*world.sample(SEED, index), SEED + 2, number))
            chosen.append(index)
        clean = paddle.to_tensor(latents[chosen].astype(np.float32))
        random = paddle.to_tensor(randomness.normal(SEED, "unet", places, tuple(clean.shape[1:])))
        times = paddle.to_tensor(randomness.integers(SEED, "times", places, schedule.config.num_train_timesteps))
        got = network(schedule.add_noise(clean, random, times), times, encode(captions)).sample
        ratio = compute_snr(schedule, times)
        loss = ((got - random).square().mean([1, 2, 3]) * paddle.clip(ratio, max=5.0) / ratio).mean()
        return loss, {}

    if (work / "unet-start").exists():
        network = type(network).from_pretrained(str(work / "unet-start"))
    Training("unet", network, recipe, work).run(loss_of)
    if processes.is_first():
        keep(network, work / "unet")


def caption_encoder(work):
    """A function from captions to what the UNet sees of them; each different caption is encoded once."""
    import paddle
    from ppdiffusers.transformers import CLIPTextModel

    tokenizer = read_tokenizer(work)
    tower = CLIPTextModel.from_pretrained(str(work / "clip"))
    tower.eval()

    @functools.cache
    def encoded(caption):
        with paddle.no_grad():
            return tower(tokens(tokenizer, [caption]))[0]

    return lambda captions: paddle.concat([encoded(caption) for caption in captions])
