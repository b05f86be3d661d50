"""The encodings: right, drawn anew for each key, shared by prompt, and read ahead in order."""

import dataclasses

import numpy as np
import paddle
import pytest
from PIL import Image
from support.families import load_family
from support.pictures import draw_pictures

from dreambooth.config.learning_sections import OptimizerSettings
from dreambooth.config.run_sections import MemorySettings
from dreambooth.config.sections import PictureSettings
from dreambooth.data import picture_files, randomness, transforms
from dreambooth.data.batches import Batches
from dreambooth.data.concepts import Concept, Example, MicroBatch, View
from dreambooth.training import encodings
from dreambooth.training.encodings import Encodings

ONCE, EACH_STEP = MemorySettings(), MemorySettings(cache_latents=False)
SEED = 4


@pytest.fixture
def batches(pictures, class_pictures):
    subject = picture_files.find_pictures(pictures, "--instance_data_dir")[0]
    of_class = picture_files.find_pictures(class_pictures, "--class_data_dir")[0]
    concept = Concept("a sks dog", tuple(subject), "a dog", tuple(of_class))
    shown = PictureSettings(resolution=32, random_flip=True)
    return Batches([concept], OptimizerSettings(train_batch_size=2), shown, SEED, rank=0, processes=1)


@pytest.fixture(scope="module")
def family(twin):
    return load_family(twin)


@pytest.fixture
def encoded(monkeypatch, family):
    """The shapes of what the VAE, and the prompts that the text encoder, encode from now on."""
    seen = {"pictures": [], "prompts": []}
    pictures, prompts = family.encode_pictures, family.encode_prompts
    monkeypatch.setattr(family, "encode_pictures", lambda x: seen["pictures"].append(x.shape) or pictures(x))
    monkeypatch.setattr(family, "encode_prompts", lambda x: seen["prompts"].append(list(x)) or prompts(x))
    return seen


def expected_latents(family, batches, batch):
    """Each example's latents by the VAE itself."""
    rows = []
    for example in batch.examples:
        image = picture_files.open_picture(batches.pictures[example.picture].path)
        if example.view.flip:
            image = image.transpose(0)
        pixels = transforms.to_pixels(image, View((40, 40), (32, 32)))
        mean, std = (getattr(family.pipeline.vae.encode(paddle.to_tensor(pixels[None])).latent_dist, name)[0].numpy()
                     for name in ("mean", "std"))  # fmt: skip
        spread = randomness.normal(SEED, "latent", [example.key], mean.shape)[0]
        rows.append((mean + std * spread) * family.space.scale)
    return np.stack(rows)


@pytest.mark.parametrize("settings", [ONCE, EACH_STEP])
def test_latents_are_the_vaes_own_of_each_picture_and_its_mirror_image(family, batches, settings):
    made = Encodings(family, batches, settings, SEED)
    drawn = [batches.micro_batch(update, 0) for update in range(4)]
    assert {example.view.flip for batch in drawn for example in batch.examples} == {False, True}
    for batch in drawn:
        expected = expected_latents(family, batches, batch)
        np.testing.assert_allclose(made.latents(batch).numpy(), expected, atol=1e-5)


def test_pictures_are_encoded_one_by_one_before_training_or_a_micro_batch_in_each_step(family, batches, encoded):
    once = Encodings(family, batches, ONCE, SEED)
    assert encoded["pictures"] == 18 * [[1, 3, 32, 32]]  # 9 pictures and their mirror images
    each_step = Encodings(family, batches, EACH_STEP, SEED)
    once.latents(batches.micro_batch(0, 0))
    assert len(encoded["pictures"]) == 18
    each_step.latents(batches.micro_batch(0, 0))
    assert encoded["pictures"][18:] == [[4, 3, 32, 32]]


def test_each_key_draws_another_latent_around_the_same_mean(family, batches):
    made, batch = Encodings(family, batches, ONCE, SEED), batches.micro_batch(0, 0)
    first = made.latents(batch).numpy()
    later = [example._replace(key=(1, *example.key[1:])) for example in batch.examples]
    again = made.latents(dataclasses.replace(batch, examples=tuple(later))).numpy()
    assert (first != again).mean() > 0.99
    assert np.array_equal(made.latents(batch).numpy(), first)


def test_each_example_gets_the_embedding_of_its_own_prompt(family, batches):
    batch = batches.micro_batch(0, 0)
    conditioning = Encodings(family, batches, ONCE, SEED).conditioning(batch)
    subject, of_class = (family.encode_prompts([prompt])["hidden"].numpy()[0] for prompt in ("a sks dog", "a dog"))
    assert np.abs(subject - of_class).max() > 1e-2 and set(conditioning) == {"hidden"}
    for row, expected in zip(conditioning["hidden"].numpy(), (subject, subject, of_class, of_class)):
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_prompts_are_encoded_anew_only_where_the_text_encoder_trains(twin, batches):
    for trains in (False, True):
        family = load_family(twin, train_text_encoders=trains)
        family.prepare_training(gradient_checkpointing=False)
        conditioning = Encodings(family, batches, ONCE, SEED).conditioning(batches.micro_batch(0, 0))
        assert conditioning["hidden"].stop_gradient != trains


def test_a_text_encoder_that_trains_encodes_each_prompt_of_a_micro_batch_once(family, batches, encoded, monkeypatch):
    monkeypatch.setattr(family, "train_text_encoders", True)
    made = Encodings(family, batches, ONCE, SEED)
    batches.prompts.append("a prompt of no example")
    view = batches.views[0][0]
    of_class = MicroBatch(tuple(Example((0, slot, 1), 5, 1, view) for slot in range(3)), prior=3)
    for batch in (batches.micro_batch(0, 0), of_class):
        made.conditioning(batch)
    assert encoded["prompts"] == [["a sks dog", "a dog"], ["a dog"]]


def test_a_family_puts_its_conditioning_together_from_prompts_pictures_and_views(batches, monkeypatch, family, encoded):
    """As for inpainting, whose denoiser sees the masked picture, and SDXL, whose denoiser sees the crop."""

    def conditioning(prompts, encoding, views):
        assert len(views) == len(encoding["mean"]) == len(prompts["hidden"]) == 4
        flips = paddle.to_tensor([[float(view.flip)] for view in views])
        return {**prompts, "picture": encoding["mean"], "flips": flips}

    monkeypatch.setattr(family, "conditioning", conditioning)
    made, batch = Encodings(family, batches, EACH_STEP, SEED), batches.micro_batch(1, 0)
    made.latents(batch)
    seen = made.conditioning(batch)
    assert encoded["pictures"] == [[4, 3, 32, 32]]  # once for both
    assert seen["flips"].flatten().tolist() == [float(example.view.flip) for example in batch.examples]
    other = made.conditioning(batches.micro_batch(2, 0))
    assert len(encoded["pictures"]) == 2 and (other["picture"].numpy() != seen["picture"].numpy()).any()


def test_conditioning_may_have_several_tensors(family, batches, monkeypatch):
    """As SDXL's has: the hidden states, and one vector for all of a prompt."""

    def encode(prompts):
        lengths = paddle.to_tensor([[len(prompt)] for prompt in prompts], dtype="float32")
        return {"hidden": lengths.unsqueeze(1).tile([1, 7, 1]), "pooled": lengths}

    monkeypatch.setattr(family, "encode_prompts", encode)
    conditioning = Encodings(family, batches, ONCE, SEED).conditioning(batches.micro_batch(0, 0))
    assert conditioning["hidden"].shape == [4, 7, 1] and conditioning["pooled"].flatten().tolist() == [9, 9, 5, 5]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_pixels_come_in_order_whoever_reads_them(workers, tmp_path):
    many = picture_files.find_pictures(draw_pictures(tmp_path / "many", 12), "--instance_data_dir")[0]
    both = transforms.views((40, 40), PictureSettings(random_flip=True), (32, 32))
    shown = [(picture, both[: 1 + number % 2]) for number, picture in enumerate(many)]
    pixels = list(encodings.read_pixels(shown, workers))
    assert len(pixels) == 12
    for (picture, views), each in zip(shown, pixels):
        image = picture_files.open_picture(picture.path)
        assert len(each) == len(views)
        assert all(np.array_equal(one, transforms.to_pixels(image, view)) for one, view in zip(each, views))


@pytest.mark.parametrize("random_crop", [True, False])
def test_pictures_of_several_shapes_are_encoded_at_their_sizes(family, tmp_path, random_crop):
    """Once or in each step, an example has the latents of its own picture, crop and mirror image."""
    for number, size in enumerate([(40, 60), (60, 40), (40, 40), (90, 60)]):
        draw_pictures(tmp_path / "dog", 1, size, first=number)
    subject = picture_files.find_pictures(tmp_path / "dog", "--instance_data_dir")[0]
    of_class = picture_files.find_pictures(draw_pictures(tmp_path / "class", 3), "--class_data_dir")[0]
    concept = Concept("a sks dog", tuple(subject), "a dog", tuple(of_class))
    shown = PictureSettings(resolution=32, resize_mode="buckets", random_crop=random_crop, random_flip=True)
    sizes = [(32, 32), (24, 40), (40, 24)]
    batches = Batches([concept], OptimizerSettings(train_batch_size=2), shown, SEED, 0, 1, sizes=sizes)
    once, each_step = (Encodings(family, batches, settings, SEED) for settings in (ONCE, EACH_STEP))
    seen = set()
    for update in range(24):
        batch = batches.micro_batch(update, 0)
        seen |= {(example.picture, batch.size) for example in batch.examples}
        np.testing.assert_allclose(once.latents(batch).numpy(), each_step.latents(batch).numpy(), atol=1e-5)
    assert {size for _, size in seen} == {*sizes} and len(seen) == 4 + 3 * 3


def captioned(pictures, texts):
    """The batches of a subject whose pictures have these captions."""
    subject = picture_files.find_pictures(pictures, "--instance_data_dir")[0]
    subject = [dataclasses.replace(subject[number % 5], caption=text) for number, text in enumerate(texts)]
    shown = PictureSettings(resolution=32)
    return Batches([Concept("a sks dog", tuple(subject))], OptimizerSettings(train_batch_size=3), shown, SEED, 0, 1)


@pytest.mark.parametrize("in_memory", [64, 0])
def test_captions_are_encoded_one_by_one_and_once(family, pictures, encoded, monkeypatch, in_memory):
    monkeypatch.setattr(encodings, "_PROMPTS_IN_MEMORY", in_memory)
    monkeypatch.setattr(encodings, "_CHUNK", 2)
    texts = [f"a sks dog {word}" for word in ("at night", "in snow", "on grass", "in a bucket", "asleep")]
    batches = captioned(pictures, texts)
    made = Encodings(family, batches, ONCE, SEED)
    assert encoded["prompts"] == [[text] for text in texts]
    expected = [family.encode_prompts([text])["hidden"].numpy()[0] for text in texts]
    for update in range(4):
        batch = batches.micro_batch(update, 0)
        rows = made.conditioning(batch)["hidden"].numpy()
        assert all(np.array_equal(row, expected[each.prompt]) for row, each in zip(rows, batch.examples))


def test_many_captions_lie_in_a_file_and_not_in_memory(family, pictures, monkeypatch):
    def encode(prompts):
        numbers = paddle.to_tensor([[int(prompt)] for prompt in prompts], dtype="float32")
        return {"hidden": numbers.unsqueeze(1).tile([1, 3, 2]), "pooled": numbers.astype("int64")}

    monkeypatch.setattr(family, "encode_prompts", encode)
    batches = captioned(pictures, [str(number) for number in range(200)])
    monkeypatch.setattr(family, "encode_pictures", lambda pixels: {"mean": paddle.zeros([1, 1, 1])})
    made = Encodings(family, batches, ONCE, SEED)
    assert isinstance(made._prompts, encodings._Spool)
    for update in range(20):
        batch = batches.micro_batch(update, 0)
        found = made.conditioning(batch)
        numbers = [example.prompt for example in batch.examples]
        assert found["pooled"].flatten().tolist() == numbers and found["hidden"].shape == [3, 3, 2]
        assert found["hidden"].numpy()[:, 2, 1].tolist() == numbers


def test_the_weights_of_latents_are_the_means_of_their_pixels(family, tmp_path):
    folder = draw_pictures(tmp_path / "dog", 2, size=(64, 32))
    grey = Image.new("L", (64, 32), 255)
    grey.paste(0, (0, 0, 33, 32))
    (tmp_path / "masks").mkdir()
    for name in ("0.png", "1.png"):
        grey.save(tmp_path / "masks" / name)
    shown = PictureSettings(resolution=32, resize_mode="pad", mask_dir=str(tmp_path / "masks"), unmasked_weight=0.5)
    subject = picture_files.with_masks(picture_files.find_pictures(folder, "--x")[0], shown)
    batches = Batches([Concept("a sks dog", tuple(subject))], OptimizerSettings(train_batch_size=2), shown, SEED, 0, 1)
    weights = Encodings(family, batches, ONCE, SEED).masks(batches.micro_batch(0, 0)).numpy()
    assert weights.shape == (2, 1, 16, 16) and np.array_equal(weights[0], weights[1])
    assert (weights[:, :, :4] == 0).all() and (weights[:, :, 12:] == 0).all()  # about the picture
    assert (weights[:, :, 4:12, :8] == 0.5).all() and (weights[:, :, 4:12, 9:] == 1).all()
    assert ((weights[:, :, 4:12, 8] > 0.5) & (weights[:, :, 4:12, 8] < 1)).all()


def test_where_all_places_count_there_are_no_weights(family, batches):
    assert Encodings(family, batches, ONCE, SEED).masks(batches.micro_batch(0, 0)) is None
