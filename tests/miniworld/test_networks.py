"""The small networks: their shapes and sizes, the end of a text, and the noise schedule."""

import numpy as np
import paddle
import pytest
from support.clips import CAPTIONS

from miniworld import networks, tokenizer
from miniworld.detector import Detector


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return tokenizer.make(tmp_path_factory.mktemp("tokenizer") / "made", seed=0, captions=CAPTIONS)


@pytest.fixture(scope="module")
def clip(tokens):
    paddle.seed(0)
    network = networks.clip(tokens)
    network.eval()
    return network


@pytest.fixture(autouse=True)
def without_gradients():
    with paddle.no_grad():
        yield


def weights_of(network):
    return sum(int(np.prod(each.shape)) for each in network.parameters())


def test_the_vae_reduces_a_picture_four_times_and_restores_its_size():
    vae = networks.vae()
    latents = vae.encode(paddle.rand([2, 3, 64, 64])).latent_dist
    assert latents.mean.shape == latents.std.shape == [2, 4, 16, 16]
    assert vae.decode(latents.mean).sample.shape == [2, 3, 64, 64]
    assert vae.config.scaling_factor == 1  # the latents have unit scale


def test_the_unet_predicts_noise_from_latents_timesteps_and_texts(clip, tokens):
    unet = networks.unet()
    text = clip.text_model(paddle.to_tensor([tokens("a dog", padding="max_length", max_length=32).input_ids] * 2))[0]
    assert text.shape == [2, networks.TOKENS, networks.WIDTH]
    latents, times = paddle.randn([2, 4, 16, 16]), paddle.to_tensor([3, 900])
    noise = unet(latents, times, text).sample
    assert noise.shape == latents.shape
    other = unet(latents, times, text.flip([1])).sample
    assert not np.allclose(noise.numpy(), other.numpy())  # the text counts
    later = unet(latents, times + 50, text).sample
    assert not np.allclose(noise.numpy(), later.numpy())


def test_the_unet_has_three_to_six_million_weights():
    assert 3e6 < weights_of(networks.unet()) < 6e6


def test_all_parts_together_take_less_than_25_megabytes_in_half_precision(clip):
    """The pipeline and CLIP both contain the text tower."""
    parts = [networks.vae(), networks.unet(), clip, clip.text_model, Detector()]
    assert 2 * sum(map(weights_of, parts)) < 25e6


def test_the_pipelines_size_follows_from_its_parts():
    """A picture's side is the UNet's side times the VAE's factor; the UNet's channels are those of the latents."""
    unet, vae = networks.unet().config, networks.vae().config
    factor = 2 ** (len(vae.block_out_channels) - 1)
    assert unet.sample_size * factor == networks.SIZE == vae.sample_size == 64
    assert unet.in_channels == unet.out_channels == vae.latent_channels == 4
    assert unet.cross_attention_dim == networks.WIDTH


def test_both_towers_of_clip_have_the_same_space(clip, tokens):
    seen = clip.get_image_features(paddle.rand([3, 3, 64, 64]))
    read = clip.get_text_features(paddle.to_tensor([tokens("a dog").input_ids] * 2))
    assert seen.shape == [3, networks.WIDTH] and read.shape == [2, networks.WIDTH]


def test_clip_has_the_tokenizers_special_tokens(clip, tokens):
    text = clip.config.text_config
    assert text.vocab_size == len(tokens) and text.max_position_embeddings == networks.TOKENS
    assert (text.bos_token_id, text.eos_token_id, text.pad_token_id) == (
        len(tokens) - 2,
        len(tokens) - 1,
        len(tokens) - 1,
    )


def test_the_text_tower_reads_up_to_the_end_token_and_no_further(clip, tokens):
    row = tokens("a photo of a red dog", padding="max_length", max_length=networks.TOKENS).input_ids
    end = row.index(tokens.eos_token_id)
    assert end == 7

    def features(place=None, word="snow"):
        changed = list(row)
        if place is not None:
            [changed[place]] = tokens(word).input_ids[1:-1]
        return clip.get_text_features(paddle.to_tensor([changed])).numpy()

    plain = features()
    for place in range(end + 1, networks.TOKENS):
        np.testing.assert_array_equal(features(place), plain)
    for place in range(1, end):
        assert np.abs(features(place) - plain).max() > 1e-3, place
    assert np.abs(features(end) - plain).max() > 1e-3


def test_the_schedule_is_that_of_stable_diffusion_1_4():
    scheduler = networks.scheduler()
    assert type(scheduler).__name__ == "PNDMScheduler"
    expected = dict(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
        prediction_type="epsilon",
        trained_betas=None,
        timestep_spacing="leading",
    )
    assert {name: scheduler.config.get(name) for name in expected} == expected
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), np.cumprod(1 - betas), rtol=1e-4)
    assert float(scheduler.final_alpha_cumprod) == float(scheduler.alphas_cumprod[0])
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == [981, 961, 961, *range(941, 0, -20)]
