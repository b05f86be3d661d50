"""The second stage of the embedded world: its crops, its training, and the scale of its latents."""

import numpy as np
import paddle
import pytest
from PIL import Image
from support.families import load_pipeline
from support.pretraining import run_pretraining

from dreambooth.data import randomness
from dreambooth.drawing.instruments.clip import Clip
from dreambooth.models import loading
from miniworld import networks, paths, second_stage, stages, training, upscaling, world

STAGES = ("large-pictures", "tokenizer", "pictures", "vae", "clip", "upscaler", "pack-upscaler")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run of the second stage, and of what it needs."""
    return run_pretraining(tmp_path_factory.mktemp("upscaling"), "--stages", *STAGES)


def test_large_pictures_are_those_of_the_world(made):
    large = np.load(made / "work" / upscaling.LARGE)
    assert large.shape[1:] == (256, 256, 3) and large.dtype == np.uint8
    expected = world.picture(*world.thing(upscaling.SEED, 1), upscaling.SEED, 1, 256)
    assert np.array_equal(large[1], np.asarray(expected))


def test_crops_are_whole_pictures_and_parts_of_them():
    """The red channel counts the rows and the green one the columns, so each crop shows its place and its scale."""
    rows, columns = np.mgrid[0:256, 0:256]
    picture = np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8)
    found = []
    for number in range(200):
        part = upscaling.crop(picture, number)
        assert part.shape == (64, 64, 3) and part.dtype == np.uint8
        step = int(part[1, 0, 0]) - int(part[0, 0, 0])
        assert (np.diff(part[:, 5, 0].astype(int)) == step).all() and (np.diff(part[5, :, 1].astype(int)) == step).all()
        found.append((step, int(part[0, 0, 0]), int(part[0, 0, 1])))
    scales = [step for step, *_ in found]
    assert {*scales} == {1, 2, 4} and 70 < scales.count(4) < 130
    assert len({tuple(place) for step, *place in found if step == 1}) > 30
    assert np.array_equal(upscaling.crop(picture, 7), upscaling.crop(picture, 7))


def test_the_network_sees_the_small_picture_the_level_of_its_noise_and_the_caption():
    paddle.seed(0)
    network = networks.upscaler()
    network.eval()
    inputs = [paddle.randn([1, 7, 16, 16]), paddle.to_tensor([500]), paddle.randn([1, 32, 128]), paddle.to_tensor([20])]

    @paddle.no_grad()
    def predict(*changed):
        noisy, t, hidden, level = [new if new is not None else old for new, old in zip(changed, inputs)]
        return network(noisy, t, hidden, class_labels=level).sample.numpy()

    plain = predict(*[None] * 4)
    other = inputs[0].clone()
    other[:, 4:] = 0
    for place, new in enumerate([other, paddle.to_tensor([400]), inputs[2] * 0.5, paddle.to_tensor([21])]):
        assert not np.allclose(predict(*[new if k == place else None for k in range(4)]), plain, atol=1e-5), place


class Training:
    """In place of a training: a network that is asked for its loss once."""

    def __init__(self, name, network, recipe, work):
        self.network = network

    def run(self, loss_of):
        self.loss = float(loss_of(3, [0, 1])[0])
        Training.last = self


class Oracle(paddle.nn.Layer):
    """A network that predicts the velocity of the crops that it must be seeing, and keeps what it was given."""

    config = type("Config", (), {"in_channels": 7})

    def __init__(self, clean, noise, wrong=0.0):
        super().__init__()
        self.clean, self.noise, self.wrong, self.seen = clean, noise, wrong, None
        schedule = networks.velocity_scheduler()
        self.alphas = schedule.alphas_cumprod

    def forward(self, noisy, t, hidden, class_labels):
        share = self.alphas[t].reshape([-1, 1, 1, 1])
        velocity = share.sqrt() * self.noise - (1 - share).sqrt() * self.clean
        self.seen = noisy, share, class_labels
        return type("Output", (), {"sample": velocity + self.wrong})


@paddle.no_grad()
def test_the_loss_is_that_of_the_velocity_of_noised_latents_beside_noised_small_pictures(made, monkeypatch):
    from ppdiffusers import AutoencoderKL

    work = made / "work"
    large, vae = np.load(work / upscaling.LARGE), AutoencoderKL.from_pretrained(str(work / "vae"))
    vae.eval()
    batch, keys = upscaling.BATCH, [(3, 0), (3, 1)]
    numbers = [3 * batch + slot for slot in (0, 1)]
    crops = [upscaling.crop(large[randomness.pick(upscaling.SEED, "upscaler", len(large), n)], n) for n in numbers]
    pixels = training.scale_pixels(np.stack(crops))
    clean = vae.encode(pixels).latent_dist.mean
    noise = paddle.to_tensor(randomness.normal(upscaling.SEED, "upscaler", keys, (4, 16, 16)))
    monkeypatch.setattr(training, "Training", Training)
    monkeypatch.setattr(stages, "save_network", lambda network, folder: None)
    losses = []
    for wrong in (0.0, 0.5):
        oracle = Oracle(clean, noise, wrong)
        monkeypatch.setattr(networks, "upscaler", lambda oracle=oracle: oracle)
        upscaling.train(work)
        losses.append(Training.last.loss)
    noisy, share, levels = oracle.seen
    ratio = share / (1 - share)
    weight = paddle.clip(ratio, max=5.0) / (ratio + 1)
    assert losses == [pytest.approx(0, abs=1e-9), pytest.approx(0.25 * float(weight.mean()), rel=1e-3)]
    expected = share.sqrt() * clean + (1 - share).sqrt() * noise
    np.testing.assert_allclose(noisy[:, :4].numpy(), expected.numpy(), atol=1e-5)
    # the small pictures have noise of their levels, which differ
    small = paddle.nn.functional.avg_pool2d(pixels, 4)
    deviations = (1 - networks.noising_scheduler().alphas_cumprod[levels]).sqrt().numpy()
    found = (noisy[:, 4:] - small).numpy().std((1, 2, 3))
    np.testing.assert_allclose(found, deviations, rtol=0.2)
    assert len({*levels.tolist()}) == 2 and max(levels.tolist()) < networks.NOISE_LEVELS


@paddle.no_grad()
def test_scaled_latents_change_no_picture():
    paddle.seed(0)
    vae, pixels = networks.vae(), paddle.rand([2, 3, 64, 64]) * 2 - 1
    vae.eval()
    before = vae.encode(pixels).latent_dist
    picture = vae.decode(before.mean).sample
    upscaling.scale_latents(vae, 12.0)
    after = vae.encode(pixels).latent_dist
    np.testing.assert_allclose(after.mean.numpy(), 12 * before.mean.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.std.numpy(), 12 * before.std.numpy(), rtol=1e-4)
    np.testing.assert_allclose(vae.decode(after.mean).sample.numpy(), picture.numpy(), atol=1e-4)


@paddle.no_grad()
def test_the_packed_upscaler_is_a_pipeline_whose_latents_are_those_that_it_trained_on(made):
    pipeline = load_pipeline(made / "packed/upscaler")
    assert type(pipeline).__name__ == "StableDiffusionUpscalePipeline"
    assert not [path for path in (made / "packed/upscaler").rglob("*.json") if str(made) in path.read_text()]
    assert pipeline.vae.config.scaling_factor == networks.UPSCALER_SCALE
    assert pipeline.config.max_noise_level == networks.NOISE_LEVELS - 1
    family = loading.load_family(loading.Source(str(made / "packed/upscaler")))
    assert family.enlargement == upscaling.ENLARGEMENT and family.facts.noise_level < networks.NOISE_LEVELS
    from ppdiffusers import AutoencoderKL

    trained = AutoencoderKL.from_pretrained(str(made / "work/vae"))
    pixels = paddle.rand([2, 3, 64, 64]) * 2 - 1
    expected = trained.encode(pixels).latent_dist.mean.numpy()
    encoding = family.encode_pictures(pixels)
    found = family.latents(encoding, paddle.zeros([2, *expected.shape[1:]])).numpy()
    np.testing.assert_allclose(found, expected, atol=0.02)  # its weights are of half precision


def test_the_carried_upscaler_enlarges_pictures_of_the_world_better_than_a_filter(monkeypatch):
    monkeypatch.setattr(second_stage, "LARGE", 64)  # the size that CLIP sees
    monkeypatch.setattr(second_stage, "SMALL", 16)
    monkeypatch.setattr(second_stage.judge, "STEPS", 12)
    things = [world.thing(1_000_000, number) for number in range(8)]
    pictures = [world.picture(*thing, 1_000_000, number, second_stage.LARGE) for number, thing in enumerate(things)]
    requests = [(f"a photo of a {look.colour} {look.kind} {scene}", 0) for look, scene in things]
    small = second_stage.reduce(pictures)
    clip = Clip(str(paths.CLIP), flag="CLIP")

    def distance(model):
        found = second_stage.enlarge(model, small, requests)
        assert {picture.size for picture in found} == {(64, 64)}
        return 1 - float((clip.encode_pictures(found) * clip.encode_pictures(pictures)).sum(1).mean())

    assert distance(paths.UPSCALER) < 0.75 * distance(None)


def test_the_embedded_models_pictures_are_drawn_four_times_as_wide(tmp_path):
    import infer

    line = ["--model_path", str(paths.MODEL), "--upscaler", str(paths.UPSCALER), "--prompt", "a photo of a red car"]
    infer.main([*line, "--output_dir", str(tmp_path / "out"), "--num_inference_steps", "2", "--num_images", "1"])
    [path] = (tmp_path / "out").glob("*.png")
    with Image.open(path) as picture:
        assert picture.size == (256, 256)
