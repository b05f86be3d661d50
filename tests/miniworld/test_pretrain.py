"""Making the small Stable Diffusion: a run of everything, shrunk to two updates of each network, and its parts."""

import json
import shutil

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file
from support.weights import weights

from dreambooth.drawing import sampling
from dreambooth.drawing.clip import Clip
from dreambooth.models import loading, pipeline_folder
from miniworld import dataset, networks, pretrain, stages, tokenizer, training, world
from miniworld.detector import Detector

PICTURES = 12


@pytest.fixture(scope="module")
def small():
    """Few pictures, few captions, two updates of four pictures each."""
    with pytest.MonkeyPatch.context() as patch:
        recipe = training.Recipe
        patch.setattr(dataset, "PICTURES", PICTURES)
        patch.setattr(training, "Recipe", lambda updates, batch, **more: recipe(updates=2, batch=4, **more))
        patch.setattr(dataset, "CAPTIONS", 300)
        yield


def run(folder, *more):
    pretrain.main(["--work", str(folder / "work"), "--output", str(folder / "packed"), "--processes", "1", *more])


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    """The folder of a whole run: what comes on the way is in work/, the result in packed/."""
    folder = tmp_path_factory.mktemp("pretrain")
    run(folder)
    return folder


@pytest.fixture(scope="module")
def drawn(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    dataset.draw_pictures(folder)
    return dataset.read_pictures(folder)


# the end: what is packed


def test_the_packed_model_loads_and_draws(made):
    pipeline = loading.load_pipeline(str(made / "packed/model"))
    assert sampling.default_size(pipeline) == (64, 64)
    [picture, other] = sampling.draw(
        pipeline,
        [("a photo of a dog", 0), ("a photo of sks cat at night", 1)],
        seed=0,
        purpose="picture",
        height=64,
        width=64,
        steps=2,
        guidance=7.5,
        batch_size=1,
    )
    assert picture.size == (64, 64) and np.asarray(picture).std() > 1 and picture.tobytes() != other.tobytes()


def test_the_packed_model_has_the_parts_and_the_schedule_of_stable_diffusion(made):
    pipeline_folder.check(str(made / "packed/model"))
    index = json.loads((made / "packed/model/model_index.json").read_text())
    classes = {part: each[1] for part, each in index.items() if isinstance(each, list) and each[1]}
    assert classes == {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "PNDMScheduler",
    }
    pipeline = loading.load_pipeline(str(made / "packed/model"))
    packed, own = pipeline.scheduler.config, networks.scheduler().config
    assert {name: packed[name] for name in own if name[0] != "_"} == {name: own[name] for name in own if name[0] != "_"}
    assert pipeline.vae.config.scaling_factor == 1


def test_everything_that_is_packed_has_half_precision(made):
    parts = ("model/vae", "model/text_encoder", "model/unet", "clip", ".")
    for part in parts:
        assert {each.dtype for each in weights(made / "packed" / part).values()} == {np.dtype(np.float16)}, part
    files = [path for path in (made / "packed").rglob("*") if path.suffix in (".safetensors", ".pdparams")]
    assert len(files) == len(parts) and sum(path.stat().st_size for path in files) < 25e6


@pytest.mark.parametrize("trained, packed", [("decoder", "model/vae"), ("unet", "model/unet"), ("image-tower", "clip")])
def test_the_packed_networks_are_those_that_were_trained_last(made, trained, packed):
    trained, packed = weights(made / "work" / trained), weights(made / "packed" / packed)
    assert trained.keys() == packed.keys()
    for name in trained:
        np.testing.assert_array_equal(packed[name], trained[name].astype(np.float16))


def test_the_text_encoder_is_clips_own_text_tower(made):
    """The library only warns where it finds no weights, and makes some up."""
    clip, tower = weights(made / "work/clip"), weights(made / "packed/model/text_encoder")
    text = {name: each.astype(np.float16) for name, each in clip.items() if name.startswith("text_model.")}
    found = {name: each for name, each in tower.items() if each.dtype.kind == "f"}
    assert text.keys() == found.keys() and len(text) > 50
    assert all(np.array_equal(text[name], found[name]) for name in text)


def test_the_packed_clip_loads_and_has_its_trained_weights(made):
    clip = Clip(str(made / "packed/clip"))
    trained = weights(made / "work/image-tower")
    for name, each in clip.model.named_parameters():
        np.testing.assert_array_equal(each.numpy().ravel(), trained[name].astype(np.float16).ravel())
    [seen] = clip.encode_pictures([world.picture(*world.thing(0, 0), 0, 0)])
    [read] = clip.encode_prompts(["a photo of a dog"])
    assert seen.shape == read.shape == (networks.WIDTH,)


def test_clip_and_the_pipeline_read_with_the_same_tokenizer(made):
    clip, pipeline = Clip(str(made / "packed/clip")), loading.load_pipeline(str(made / "packed/model"))
    for text in ("a photo of sks dog at night", "a zebra"):
        assert clip.tokenizer(text).input_ids == pipeline.tokenizer(text).input_ids
    assert pipeline.tokenizer.model_max_length == clip.length == networks.TOKENS


def test_the_packed_detector_loads(made):
    packed, trained = (Detector.load(made / folder / "detector.safetensors") for folder in ("packed", "work"))
    for name, each in packed.state_dict().items():
        np.testing.assert_array_equal(each.numpy(), trained.state_dict()[name].numpy())


# on the way


def test_each_network_was_trained_for_its_updates(made):
    for name in ("vae", "clip", "detector", "unet", "decoder", "image-tower"):
        assert json.loads((made / f"work/{name}-state/state.json").read_text()) == {"update": 2}


@pytest.mark.parametrize(
    "before, after, learns",
    [
        ("vae", "decoder", ("decoder.", "post_quant_conv.")),
        ("clip", "image-tower", ("vision_model.", "visual_projection.", "logit_scale")),
    ],
)
def test_what_learns_a_second_time_learns_alone(made, before, after, learns):
    """The UNet knows the latents and the texts as they were."""
    before, after = weights(made / "work" / before), weights(made / "work" / after)
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name for name in changed if not name.startswith(learns)} == set()
    for start in learns:
        assert any(name.startswith(start) for name in changed), start


def test_the_latents_are_those_of_the_folded_vae(made):
    from ppdiffusers import AutoencoderKL

    latents = np.load(made / "work/latents.npy")
    assert latents.shape == (PICTURES, 4, 16, 16) and latents.dtype == np.float16
    vae = AutoencoderKL.from_pretrained(str(made / "work/vae"))
    vae.eval()
    with paddle.no_grad():
        means = vae.encode(training.scale_pixels(np.load(made / "work/pictures.npy"))).latent_dist.mean.numpy()
    np.testing.assert_allclose(latents, means, atol=0.01)
    assert not [path for path in (made / "work").iterdir() if "unfinished" in path.name or "latents-" in path.name]


def test_captions_are_encoded_one_like_the_other(made):
    """Each as the pipeline encodes it, whatever is encoded beside it."""
    encode = dataset.caption_encoder(made / "work")
    captions = ["a photo of a dog", "", "an orange cat at night", "a photo of a dog"]
    together = encode(captions).numpy()
    assert together.shape == (4, networks.TOKENS, networks.WIDTH)
    np.testing.assert_array_equal(together[0], together[3])
    assert len({row.tobytes() for row in together}) == 3
    pipeline = loading.load_pipeline(str(made / "packed/model"))
    expected = np.concatenate([pipeline.encode_prompt(caption, 1, False)[0].numpy() for caption in captions])
    np.testing.assert_allclose(together, expected, atol=0.02)  # the pipeline's were in half precision once


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_trains_nothing_again(made, monkeypatch):
    def again(*arguments):
        raise AssertionError("this is there already")

    before = snapshot(made / "work")
    for place, name in (
        (training.Training, "run"),
        (stages, "encode_latents"),
        (world, "picture"),
        (tokenizer, "make"),
    ):
        monkeypatch.setattr(place, name, again)
    run(made)
    assert snapshot(made / "work") == before
    loading.load_pipeline(str(made / "packed/model"))


def test_a_stage_whose_result_is_gone_is_made_again_and_no_other(made, tmp_path):
    shutil.copytree(made / "work", tmp_path / "work")
    (tmp_path / "work/latents.npy").unlink()
    before = snapshot(tmp_path / "work")
    run(tmp_path, "--stages", "vae", "latents")
    after = snapshot(tmp_path / "work")
    assert after.keys() - before.keys() == {tmp_path / "work/latents.npy"}
    assert all(after[path] == before[path] for path in before)
    assert np.array_equal(np.load(tmp_path / "work/latents.npy"), np.load(made / "work/latents.npy"))
    assert not (tmp_path / "packed").exists()


def begun(made, folder):
    """A folder for work, where the pictures are drawn already."""
    (folder / "work").mkdir()
    shutil.copy(made / "work/pictures.npy", folder / "work/pictures.npy")
    return folder


def test_a_packed_model_can_learn_on(made, tmp_path):
    """Its UNet alone: in two updates of a rate that is still warming up it does not get far."""
    run(begun(made, tmp_path), "--go_on_from", str(made / "packed"), "--stages", "latents", "unet", "pack")
    work = tmp_path / "work"
    assert [each.name for each in work.glob("*-state")] == ["unet-state"]
    for part in ("vae", "clip"):
        packed, unpacked = weights(made / "packed" / {"vae": "model/vae"}.get(part, part)), weights(work / part)
        assert unpacked.keys() == packed.keys()
        for name, each in unpacked.items():
            assert each.dtype == np.float32 and np.array_equal(each.ravel(), packed[name].astype(np.float32).ravel())
    before, after = weights(made / "packed/model/unet"), weights(tmp_path / "packed/model/unet")
    furthest = max(float(np.abs(after[name].astype(np.float32) - before[name]).max()) for name in before)
    assert 0 < furthest < 1e-3
    Detector.load(tmp_path / "packed/detector.safetensors")


def test_a_unet_that_still_learns_is_packed_as_its_average_stands(made, tmp_path):
    shutil.copytree(made / "work", tmp_path / "work")
    shutil.rmtree(tmp_path / "work/unet")
    run(tmp_path, "--stages", "pack")
    stands = load_file(made / "work/unet-state/state.safetensors")
    packed = weights(tmp_path / "packed/model/unet")
    for name, each in packed.items():
        np.testing.assert_array_equal(each, stands[f"{name}:average"].astype(np.float16))


def test_what_has_not_learned_a_second_time_is_packed_as_it_is(made, tmp_path):
    shutil.copytree(made / "work", tmp_path / "work")
    for name in ("decoder", "image-tower"):
        shutil.rmtree(tmp_path / "work" / name)
    run(tmp_path, "--stages", "pack")
    for trained, packed in (("vae", "model/vae"), ("clip", "clip")):
        trained, packed = weights(made / "work" / trained), weights(tmp_path / "packed" / packed)
        assert all(np.array_equal(packed[name], trained[name].astype(np.float16)) for name in trained)


def test_without_a_unet_there_is_nothing_to_pack(made, tmp_path):
    """Least of all one with random weights."""
    shutil.copytree(made / "work", tmp_path / "work")
    for name in ("unet", "unet-state"):
        shutil.rmtree(tmp_path / "work" / name)
    with pytest.raises(Exception):  # noqa: B017  of whatever kind
        run(tmp_path, "--stages", "pack")
    assert not (tmp_path / "packed/model").exists()


# the parts


def test_the_pictures_are_the_worlds(drawn):
    assert drawn.shape == (PICTURES, 64, 64, 3) and drawn.dtype == np.uint8
    for number in (0, 5, PICTURES - 1):
        look, scene = world.thing(stages.SEED, number)
        assert np.array_equal(drawn[number], np.asarray(world.picture(look, scene, stages.SEED, number)))


def test_drawing_that_was_stopped_leaves_no_pictures(small, tmp_path, monkeypatch):
    def stopped(*thing):
        raise KeyboardInterrupt

    monkeypatch.setattr(world, "picture", stopped)
    with pytest.raises(KeyboardInterrupt):
        dataset.draw_pictures(tmp_path)
    assert not (tmp_path / "pictures.npy").exists()


def test_some_things_are_strangers_and_each_is_what_its_picture_shows(drawn):
    numbers = range(300)
    things = list(dataset.mixed_things(drawn, "test", numbers, strangers=0.4))
    known = {picture.tobytes(): world.thing(stages.SEED, index) for index, picture in enumerate(drawn)}
    strangers = 0
    for number, (picture, look, scene) in zip(numbers, things, strict=True):
        if picture.tobytes() in known:
            assert known[picture.tobytes()] == (look, scene)
        else:
            strangers += 1
            assert (look, scene) == world.stranger(stages.SEED, number)
            assert np.array_equal(picture, np.asarray(world.picture(look, scene, stages.SEED + 1, number)))
    assert strangers / 300 == pytest.approx(0.4, abs=0.1)
    assert not any(look.mark or look.hat for _, look, _ in dataset.mixed_things(drawn, "test", numbers, strangers=0))


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
    """As many as do not fill the last portion of 32."""
    shown = [np.asarray(world.picture(*world.thing(0, number), 0, number)) for number in range(40)]
    return training.scale_pixels(np.stack(shown))


@paddle.no_grad()
def test_folding_gives_each_channel_mean_0_and_deviation_1_and_changes_no_picture(vae, sample):
    before = vae.encode(sample).latent_dist
    pictures = vae.decode(before.mean).sample
    means, deviations = before.mean.numpy().mean((0, 2, 3)), before.mean.numpy().std((0, 2, 3))
    assert np.ptp(means) > 1 and deviations.max() > 2 * deviations.min()  # otherwise it would be no test

    stages.normalize_latents(vae, sample)

    after = vae.encode(sample).latent_dist
    np.testing.assert_allclose(after.mean.numpy().mean((0, 2, 3)), np.zeros(4), atol=1e-3)
    np.testing.assert_allclose(after.mean.numpy().std((0, 2, 3)), np.ones(4), atol=1e-3)
    np.testing.assert_allclose(vae.decode(after.mean).sample.numpy(), pictures.numpy(), atol=1e-4)
    # the posterior is scaled along
    expected = before.std.numpy() / deviations.reshape(1, 4, 1, 1)
    np.testing.assert_allclose(after.std.numpy(), expected, rtol=1e-3)


@paddle.no_grad()
def test_folding_what_is_folded_changes_nothing(vae, sample):
    stages.normalize_latents(vae, sample)
    once = [each.numpy() for each in (*vae.quant_conv.parameters(), *vae.post_quant_conv.parameters())]
    stages.normalize_latents(vae, sample)
    twice = [each.numpy() for each in (*vae.quant_conv.parameters(), *vae.post_quant_conv.parameters())]
    for one, other in zip(once, twice, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
