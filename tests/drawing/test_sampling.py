"""Drawing: a picture is a function of its seed, number and settings, under every scheduler."""

import contextlib
import copy
import dataclasses
import warnings
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from PIL import Image
from support.families import load_family

from dreambooth.config.commands import DrawSettings
from dreambooth.data import randomness
from dreambooth.drawing import sampling, sheets
from dreambooth.models import schedulers
from dreambooth.system import machine
from dreambooth.system.devices import cards
from dreambooth.system.errors import BadInput

each_scheduler = pytest.mark.parametrize("name", schedulers.SCHEDULERS)
DOGS = [("a photo of a dog", number) for number in range(4)]


@pytest.fixture(scope="module")
def family(twin):
    return load_family(twin)


@pytest.fixture
def draw(family):
    """Draw with a scheduler; the pixels of each picture."""

    def pixels(requests, name=None, **changes):
        settings = DrawSettings(**{"seed": 0, "purpose": "picture", "size": (32, 32), "steps": 3, **changes})
        settings = dataclasses.replace(settings, scheduler=name)
        return [np.asarray(picture) for picture in sampling.draw(family, settings, requests)]

    return pixels


def same(ones, others):
    return [np.array_equal(one, other) for one, other in zip(ones, others, strict=True)]


@each_scheduler
def test_every_scheduler_draws(draw, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # what NumPy says of numbers that are not finite
        [pixels] = draw(DOGS[:1], name)
    assert pixels.shape == (32, 32, 3) and pixels.std() > 5


@each_scheduler
def test_a_picture_is_the_same_whatever_is_drawn_beside_it(draw, name):
    alone = [picture for each in DOGS for picture in draw([each], name, batch_size=1)]
    assert all(same(draw(DOGS, name, batch_size=4), alone))
    assert all(same(draw(DOGS, name, batch_size=3), alone))
    mixed = draw([("snow", 9), DOGS[2], ("a cat on a long, long road at night", 1), DOGS[0]], name)
    assert np.array_equal(mixed[1], alone[2]) and np.array_equal(mixed[3], alone[0])


@each_scheduler
def test_workers_draw_what_one_process_draws(draw, family, monkeypatch, name):
    requests = [*DOGS, ("a cat", 0)]
    alone = draw(requests, name)
    monkeypatch.setattr(family, "split", machine.Split(2, 1))
    assert all(same(draw(requests, name), alone))


@pytest.mark.parametrize("rows_count", [False, True])
def test_a_small_network_draws_several_at_once_if_that_changes_no_bit(draw, family, monkeypatch, rows_count):
    """As with AVX-512; with AVX2, the number of rows in a matrix product decides how its sums are split."""
    rows = []

    def forward(sample, *arguments, **options):
        rows.append(len(sample))
        return (sample * (0.5 + 1e-7 * len(sample) * rows_count),)

    monkeypatch.setattr(family.pipeline.unet, "forward", forward)
    alone = [picture for each in DOGS for picture in draw([each], "ddim")]
    assert set(rows) == {2}  # the guidance doubles them
    rows.clear()
    assert all(same(draw(DOGS, "ddim"), alone))
    drawn = rows[-3:]  # the last steps, after the comparison
    assert drawn == [2] * 3 if rows_count else drawn == [8] * 3
    for changes in ({"name": "ddim", "batch_size": 1}, {"name": "ddpm"}):
        rows.clear()
        draw(DOGS, **changes)
        assert set(rows) == {2} and len(rows) == 12  # nothing to compare


def test_a_large_network_draws_one_by_one(draw, family, monkeypatch):
    monkeypatch.setattr(machine, "_SMALL", 1000)
    rows = []
    hook = family.pipeline.unet.register_forward_pre_hook(lambda layer, inputs: rows.append(len(inputs[0])))
    draw(DOGS, "ddim")
    hook.remove()
    assert rows == [2] * 12


@pytest.mark.parametrize(
    "count, most, workers, sizes",
    [
        (20, 4, 2, [3, 3, 4, 3, 3, 4]),
        (48, 4, 2, [4] * 12),
        (3, 4, 2, [1, 2]),
        (1, 4, 2, [1]),
        (5, 1, 2, [1] * 5),
        (10, 4, 1, [3, 3, 4]),
        (0, 4, 2, []),
    ],
)
def test_requests_are_split_evenly_over_the_workers(count, most, workers, sizes):
    requests = sampling.requests_for(["a dog"], count)
    batches = sampling._split(requests, most, workers)
    assert [len(batch) for batch in batches] == sizes and [each for batch in batches for each in batch] == requests


def test_a_prompt_is_encoded_once_for_all_workers(draw, family, monkeypatch):
    asked = []
    hook = family.pipeline.text_encoder.register_forward_pre_hook(lambda layer, inputs: asked.append(inputs))
    monkeypatch.setattr(family, "split", machine.Split(3, 1))
    draw([*DOGS, ("a cat", 0)])
    hook.remove()
    assert len(asked) == 4


def test_a_prompt_is_encoded_once(draw, family):
    asked = []
    hook = family.pipeline.text_encoder.register_forward_pre_hook(lambda layer, inputs: asked.append(inputs))
    draw([*DOGS, ("a cat", 0)], batch_size=1)
    assert len(asked) == 4  # two prompts, and the empty one beside each
    draw(DOGS, guidance=1.0)
    assert len(asked) == 5
    hook.remove()


def test_prompts_encoded_before_draw_what_the_pipeline_draws_from_words(draw, family):
    latents = family.first_latents(0, "picture", [(2,)], (32, 32))["latents"]
    settings = dict(latents=latents, height=32, width=32, num_inference_steps=3)
    for guidance, negative in ((7.5, "blurry"), (7.5, None), (1.0, None)):
        words = dict(guidance_scale=guidance, negative_prompt=negative)
        [theirs] = family.pipeline("a photo of a dog", **settings, **words).images
        [mine] = draw(DOGS[2:3], guidance=guidance, negative_prompt=negative)
        assert np.array_equal(np.asarray(theirs), mine)


@pytest.mark.parametrize("name", ["twin", "xl_twin", "sd3_twin", "inpainting_twin"])
def test_a_vae_that_overflows_in_half_precision_is_drawn_with_in_float32(request, monkeypatch, name):
    """On a card, all the rest is in half precision; the CPU has no autocast, so what was asked for is recorded."""
    family = load_family(request.getfixturevalue(name))
    is_half, seen = [False], {"denoiser": [], "VAE": []}

    @contextlib.contextmanager
    def auto_cast(enable=True, **settings):
        is_half.append(enable)
        yield
        is_half.pop()

    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    monkeypatch.setattr(cards, "half", lambda precision: "float16")
    vae = family.pipeline.vae
    layers = [("denoiser", family.denoiser), ("VAE", vae.decoder), ("VAE", vae.encoder)]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs, kind=kind: seen[kind].append(is_half[-1]))
        for kind, layer in layers
    ]
    settings = DrawSettings(seed=0, purpose="picture", size=family.default_size, steps=2)
    assert len(list(sampling.draw(family, settings, DOGS[:1]))) == 1
    for hook in hooks:
        hook.remove()
    assert set(seen["denoiser"]) == {True} and set(seen["VAE"]) == {False} and is_half == [False]


@each_scheduler
def test_a_picture_does_not_depend_on_paddles_own_seed(draw, name):
    drawn = []
    for seed in (1, 2):
        paddle.seed(seed)
        drawn.append(draw(DOGS[:1], name))
    assert all(same(*drawn))


def test_other_seeds_numbers_purposes_and_prompts_give_other_pictures(draw):
    [picture] = draw(DOGS[:1])
    others = [
        *draw(DOGS[:1], seed=1),
        *draw(DOGS[1:2]),
        *draw(DOGS[:1], purpose="class picture"),
        *draw([("snow", 0)]),
    ]
    assert same(others, [picture] * 4) == [False] * 4
    assert all(same(draw(DOGS[:1]), [picture]))


@pytest.mark.parametrize("name", ["ddpm", "euler_a"])
def test_noise_that_is_drawn_on_the_way_is_the_pictures_own_too(draw, name, monkeypatch):
    """Even where all begin alike, they end otherwise."""
    monkeypatch.setattr(randomness, "normal", lambda seed, purpose, places, shape: np.zeros((1, *shape), "float32"))
    [picture, other] = draw(DOGS[:2], name)
    assert same([picture] * 3, [other, *draw(DOGS[:1], name, seed=1), *draw(DOGS[:1], name)]) == [False, False, True]


def test_a_negative_prompt_changes_the_picture(draw):
    assert same(draw(DOGS[:2], negative_prompt="snow"), draw(DOGS[:2])) == [False, False]


def test_without_guidance_a_negative_prompt_has_no_say(draw):
    assert same(draw(DOGS[:1], guidance=1.0, negative_prompt="snow"), draw(DOGS[:1], guidance=1.0)) == [True]


def test_the_size_need_not_be_square(draw):
    assert [picture.shape for picture in draw(DOGS[:2], size=(16, 48))] == [(16, 48, 3)] * 2


def test_nothing_wanted_is_nothing_drawn(draw):
    assert draw([]) == []


def test_the_default_size_is_the_one_the_model_was_made_for(family):
    assert family.default_size == (32, 32)


def test_a_model_may_be_made_for_a_shape_that_is_not_square(family):
    unet = SimpleNamespace(config=SimpleNamespace(sample_size=[64, 96]))
    other = copy.copy(family)
    other.pipeline, other.space = SimpleNamespace(unet=unet), SimpleNamespace(factor=8)
    assert other.default_size == (512, 768)


@pytest.mark.parametrize(
    "factor, size, named",
    [(2, (12, 32), "--height"), (2, (32, 0), "--width"), (8, (-8, 32), "--height"), (16, (32, 40), "--width")],
)
def test_a_size_that_does_not_fit_is_refused(family, monkeypatch, factor, size, named):
    monkeypatch.setattr(family.space, "factor", factor)
    with pytest.raises(BadInput, match=named):
        family.check_drawing(DrawSettings(0, "picture", size, steps=3))


@pytest.mark.parametrize("factor, side", [(2, 8), (8, 40), (16, 48)])
def test_a_size_that_fits_is_taken(family, monkeypatch, factor, side):
    monkeypatch.setattr(family.space, "factor", factor)
    family.check_drawing(DrawSettings(0, "picture", (side, 2 * side), steps=3))


def test_more_steps_than_the_model_has_are_refused(family):
    with pytest.raises(BadInput, match="--num_inference_steps 1001: the model has 1000"):
        family.check_drawing(DrawSettings(0, "picture", (32, 32), steps=1001))


def test_a_grid_is_filled_row_by_row_and_white_where_nothing_is_left():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sheet = sheets.make_grid([Image.new("RGB", (6, 4), colour) for colour in colours], columns=2)
    assert sheet.size == (12, 8)
    pixels = np.asarray(sheet)
    for (row, column), colour in zip([(0, 0), (0, 6), (4, 0), (4, 6)], [*colours, (255, 255, 255)]):
        assert (pixels[row : row + 4, column : column + 6] == colour).all()


def test_a_grid_of_one_column_is_a_strip():
    assert sheets.make_grid([Image.new("RGB", (6, 4))] * 3, columns=1).size == (6, 12)
