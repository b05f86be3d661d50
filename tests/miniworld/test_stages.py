"""The training stages: what each network learns, from which network it starts, and the latents' scale."""

import json

import numpy as np
import paddle
import pytest
from support.pretraining import PICTURES, run_pretraining
from support.weights import weights

from miniworld import networks, pretrain, stages, training, world

STAGES = [stage for stage in pretrain.STAGES if not stage.startswith("pack")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run of all stages."""
    return run_pretraining(tmp_path_factory.mktemp("stages"), "--stages", *STAGES)


def test_each_network_makes_all_its_updates(made):
    for name in ("vae", "clip", "detector", "unet", "decoder", "image-tower", "upscaler"):
        assert json.loads((made / f"work/{name}-state/state.json").read_text()) == {"update": 2}


@pytest.mark.parametrize(
    "before, after, trained",
    [
        ("vae", "decoder", ("decoder.", "post_quant_conv.")),
        ("clip", "image-tower", ("vision_model.", "visual_projection.", "logit_scale")),
    ],
)
def test_a_second_stage_changes_only_its_own_part(made, before, after, trained):
    """The latents and the texts of the UNet stay the same."""
    before, after = weights(made / "work" / before), weights(made / "work" / after)
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name for name in changed if not name.startswith(trained)} == set()
    for start in trained:
        assert any(name.startswith(start) for name in changed), start


def test_the_latents_are_those_of_the_finished_vae(made):
    from ppdiffusers import AutoencoderKL

    latents = np.load(made / "work/latents.npy")
    assert latents.shape == (PICTURES, 4, 16, 16) and latents.dtype == np.float16
    vae = AutoencoderKL.from_pretrained(str(made / "work/vae"))
    vae.eval()
    with paddle.no_grad():
        means = vae.encode(training.scale_pixels(np.load(made / "work/pictures.npy"))).latent_dist.mean.numpy()
    np.testing.assert_allclose(latents, means, atol=0.01)
    assert not [path for path in (made / "work").iterdir() if "unfinished" in path.name or "latents-" in path.name]


@pytest.fixture
def vae():
    """With latents that have another mean and deviation in each channel."""
    paddle.seed(0)
    network = networks.vae()
    network.eval()
    with paddle.no_grad():
        scale = paddle.to_tensor([3.0, 0.2, 1, 10, 0.5, 1, 2, 1]).reshape([8, 1, 1, 1])
        network.quant_conv.weight.set_value(network.quant_conv.weight * scale)
        network.quant_conv.bias.set_value(paddle.to_tensor([5.0, -2, 0.3, 40, -2, -1, 0.5, -3]))
    return network


@pytest.fixture
def sample():
    """A number of pictures that is no multiple of 32."""
    drawn = [np.asarray(world.picture(*world.thing(0, number), 0, number)) for number in range(40)]
    return training.scale_pixels(np.stack(drawn))


@paddle.no_grad()
def test_normalized_latents_have_mean_0_and_deviation_1_and_no_picture_changes(vae, sample):
    before = vae.encode(sample).latent_dist
    pictures = vae.decode(before.mean).sample
    means, deviations = before.mean.numpy().mean((0, 2, 3)), before.mean.numpy().std((0, 2, 3))
    assert np.ptp(means) > 1 and deviations.max() > 2 * deviations.min()  # so the test can fail

    stages.normalize_latents(vae, sample)

    after = vae.encode(sample).latent_dist
    np.testing.assert_allclose(after.mean.numpy().mean((0, 2, 3)), np.zeros(4), atol=1e-3)
    np.testing.assert_allclose(after.mean.numpy().std((0, 2, 3)), np.ones(4), atol=1e-3)
    np.testing.assert_allclose(vae.decode(after.mean).sample.numpy(), pictures.numpy(), atol=1e-4)
    # the posterior has the same scale
    expected = before.std.numpy() / deviations.reshape(1, 4, 1, 1)
    np.testing.assert_allclose(after.std.numpy(), expected, rtol=1e-3)


@paddle.no_grad()
def test_a_second_normalization_changes_nothing(vae, sample):
    stages.normalize_latents(vae, sample)
    once = [each.numpy() for each in (*vae.quant_conv.parameters(), *vae.post_quant_conv.parameters())]
    stages.normalize_latents(vae, sample)
    twice = [each.numpy() for each in (*vae.quant_conv.parameters(), *vae.post_quant_conv.parameters())]
    for one, other in zip(once, twice, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
