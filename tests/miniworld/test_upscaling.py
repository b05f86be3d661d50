"""The second stage of the embedded world: its crops, its training, and the scale of its latents."""

import numpy as np
import paddle
import pytest
from PIL import Image
from support.families import load_pipeline
from support.pretraining import run_pretraining
from support.weights import weights

from dreambooth.drawing.instruments.clip import Clip
from dreambooth.models import loading
from miniworld import networks, paths, second_stage, upscaling, world

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


def test_a_trained_network_has_other_weights_than_an_untrained_one(made):
    paddle.seed(upscaling.SEED)
    start = {name: each.numpy() for name, each in networks.upscaler().state_dict().items()}
    trained = weights(made / "work/upscaler")
    assert sum(not np.array_equal(start[name].ravel(), each.ravel()) for name, each in trained.items()) > 100


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


def test_the_carried_upscaler_enlarges_pictures_of_the_world_better_than_a_filter():
    things = [world.thing(1_000_000, number) for number in range(16)]
    pictures = [world.picture(*thing, 1_000_000, number, second_stage.LARGE) for number, thing in enumerate(things)]
    prompts = [f"a photo of a {look.colour} {look.kind} {scene}" for look, scene in things]
    small = second_stage.reduce(pictures)

    clip = Clip(str(paths.CLIP), flag="CLIP")
    family = loading.load_family(loading.Source(str(paths.UPSCALER)))

    def likeness(found):
        assert {picture.size for picture in found} == {(96, 96)}
        return float((clip.encode_pictures(found) * clip.encode_pictures(pictures)).sum(1).mean())

    by_filter = likeness(second_stage.enlarge(None, small, prompts))
    assert 1 - likeness(second_stage.enlarge(family, small, prompts)) < 0.75 * (1 - by_filter)


def test_the_embedded_models_pictures_are_drawn_four_times_as_wide(tmp_path):
    import infer

    line = ["--model_path", str(paths.MODEL), "--upscaler", str(paths.UPSCALER), "--prompt", "a photo of a red car"]
    infer.main([*line, "--output_dir", str(tmp_path / "out"), "--num_inference_steps", "2", "--num_images", "1"])
    [path] = (tmp_path / "out").glob("*.png")
    with Image.open(path) as picture:
        assert picture.size == (256, 256)
