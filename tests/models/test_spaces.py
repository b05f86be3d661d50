"""The spaces of denoisers: latents of a VAE, and pixels."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from support.families import load_family

from dreambooth.models.family.spaces import Latents, Pixels


class Vae:
    """A VAE whose latents are the means of four pixels, and which remembers the types of numbers that it gets."""

    dtype = paddle.float32

    def __init__(self, **settings):
        self.config = SimpleNamespace(latent_channels=3, scaling_factor=0.5, get=lambda name: settings.get(name))
        self.seen = []

    def encode(self, pixels):
        mean = paddle.nn.functional.avg_pool2d(pixels, 2)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=paddle.full_like(mean, 0.1)))

    def decode(self, latents):
        self.seen.append(str(latents.dtype))
        return SimpleNamespace(sample=latents.repeat_interleave(2, 2).repeat_interleave(2, 3))

    def to(self, dtype):
        self.dtype = getattr(paddle, dtype)


def test_latents_are_shifted_and_scaled_and_come_back():
    vae = Vae(shift_factor=0.25)
    space = Latents(vae, 2)
    assert (space.channels, space.factor, space.shape((8, 6))) == (3, 2, (3, 4, 3))
    pixels = paddle.full([1, 3, 8, 6], 0.75)
    found = space.encode(vae, pixels)
    latents = space.draw(found, paddle.zeros_like(found["mean"]))
    np.testing.assert_allclose(latents.numpy(), np.full([1, 3, 4, 3], 0.25))
    np.testing.assert_allclose(space.draw(found, paddle.ones_like(latents)).numpy(), 0.3 * np.ones([1, 3, 4, 3]))
    np.testing.assert_allclose(space.decode(vae, latents).numpy(), pixels.numpy())


def test_no_shift_is_a_shift_of_nothing():
    assert Latents(Vae(), 2).shift == 0.0


def test_a_vae_that_overflows_in_half_precision_decodes_in_float32():
    vae = Vae(force_upcast=True)
    vae.dtype = paddle.float16
    space = Latents(vae, 2)
    assert space.exact_type(vae) == paddle.float32 == vae.dtype
    space.decode(vae, paddle.zeros([1, 3, 4, 3], "float16"))
    assert vae.seen == ["paddle.float32"]


@pytest.mark.parametrize("name", ["twin", "sd3_twin", "upscaler_twin"])
def test_a_familys_space_is_that_of_its_vae(request, name):
    family = load_family(request.getfixturevalue(name))
    settings = family.pipeline.vae.config
    assert family.space.factor == family.pipeline.vae_scale_factor
    assert family.space.scale == settings.scaling_factor and family.space.channels == settings.latent_channels


def test_pixels_stay_what_they_are():
    space, pixels = Pixels(), paddle.uniform([2, 3, 4, 6])
    found = space.encode(None, pixels)
    assert space.draw(found, paddle.ones_like(pixels)) is pixels
    assert (space.decode(None, pixels) == pixels).all() and space.exact_type(None) is None
    assert (space.channels, space.factor, space.shape((4, 6))) == (3, 1, (3, 4, 6))
