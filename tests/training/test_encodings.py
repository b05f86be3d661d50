"""The cache: right encodings, a new latent in every step, shared by prompt, and read ahead in order."""

import dataclasses

import numpy as np
import pytest
from support.pictures import draw_pictures
from support.settings import changed

from dreambooth.config.config import Config
from dreambooth.data import picture_files, transforms
from dreambooth.data.batches import Examples
from dreambooth.data.concepts import Concept
from dreambooth.models import loading
from dreambooth.training import diffusion, encodings


@pytest.fixture
def config(twin, pictures, class_pictures):
    return Config.from_flat(
        pretrained_model_name_or_path=str(twin),
        instance_data_dir=str(pictures),
        instance_prompt="a sks dog",
        with_prior_preservation=True,
        class_data_dir=str(class_pictures),
        class_prompt="a dog",
        num_class_images=4,
        resolution=32,
        train_batch_size=2,
        random_flip=True,
        seed=0,
    )


def concept_of(config):
    subject = picture_files.find_pictures(config.concepts.instance_data_dir, "--instance_data_dir")[0]
    of_class = picture_files.find_pictures(config.concepts.class_data_dir, "--class_data_dir")[0]
    return Concept(config.concepts.instance_prompt, tuple(subject), config.concepts.class_prompt, tuple(of_class))


@pytest.fixture
def examples(config):
    return Examples([concept_of(config)], config, rank=0, processes=1)


@pytest.fixture(scope="module")
def family(twin):
    return loading.load_model(str(twin))


def test_the_cache_holds_what_the_vae_says_of_each_picture_and_its_mirror_image(family, examples):
    import paddle

    cache = encodings.EncodedOnce(family, examples)
    assert cache.arrays["mean"].shape == (9, 2, 4, 16, 16)
    picture = picture_files.open_picture(examples.pictures[3].path)
    for version, image in enumerate((picture, picture.transpose(0))):
        pixels = paddle.to_tensor(transforms.to_pixels(image, 32, 32, False)[None])
        expected = family.vae.encode(pixels).latent_dist
        np.testing.assert_allclose(cache.arrays["mean"][3, version], expected.mean[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(cache.arrays["std"][3, version], expected.std[0].numpy(), atol=1e-6)


def test_with_and_without_the_cache_a_micro_batch_has_the_same_encodings(family, examples):
    batch = examples.micro_batch(0, 0)
    once, each = (kind(family, examples).take(batch) for kind in (encodings.EncodedOnce, encodings.EncodedEachStep))
    for name in ("mean", "std"):
        np.testing.assert_allclose(once[name].numpy(), each[name].numpy(), atol=1e-6)


def test_each_step_draws_a_new_latent_around_the_same_mean(family, examples):
    cache = encodings.EncodedOnce(family, examples)
    batch = examples.micro_batch(0, 0)
    later = dataclasses.replace(batch, places=[(1, slot, kind) for _, slot, kind in batch.places])
    encoding = cache.take(batch)
    clean, noise, timesteps, noisy = diffusion.noised(family, encoding, batch, seed=0)
    again = diffusion.noised(family, encoding, later, seed=0)
    assert all(
        (one.numpy() != other.numpy()).any() for one, other in zip((clean, noise, noisy), again[::1][:2] + again[3:])
    )
    spread = (clean.numpy() / family.latent_scale - encoding["mean"].numpy()) / encoding["std"].numpy()
    assert abs(spread.mean()) < 0.1 and abs(spread.std() - 1) < 0.1


def test_noise_is_mixed_in_as_the_models_own_schedule_says(family, examples):
    batch = examples.micro_batch(0, 0)
    clean, noise, timesteps, noisy = diffusion.noised(
        family, encodings.EncodedOnce(family, examples).take(batch), batch, 0
    )
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # "scaled_linear", as the twin's scheduler is set
    alpha = np.cumprod(1 - betas)[timesteps.numpy()][:, None, None, None]
    expected = alpha**0.5 * clean.numpy() + (1 - alpha) ** 0.5 * noise.numpy()
    np.testing.assert_allclose(noisy.numpy(), expected, atol=1e-4)


def test_each_example_gets_the_embedding_of_its_own_prompt(family, examples):
    batch = examples.micro_batch(0, 0)
    embeddings = encodings.Prompts(family, examples).take(batch).numpy()
    subject, of_class = (family.encode_prompts([prompt]).numpy()[0] for prompt in ("a sks dog", "a dog"))
    assert np.abs(subject - of_class).max() > 1e-2
    for row, expected in zip(embeddings, (subject, subject, of_class, of_class)):
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_prompts_are_encoded_anew_only_where_the_text_encoder_learns(twin, examples):
    for learns in (False, True):
        family = loading.load_model(str(twin), train_text_encoder=learns)
        family.prepare_training(gradient_checkpointing=False)
        embeddings = encodings.Prompts(family, examples).take(examples.micro_batch(0, 0))
        assert embeddings.stop_gradient != learns


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_pixels_come_in_order_whoever_reads_them(config, workers, tmp_path):
    folder = draw_pictures(tmp_path / "many", 12)
    config = changed(config, dataloader_num_workers=workers)
    many = picture_files.find_pictures(folder, "--instance_data_dir")[0]
    pixels = list(encodings.pixels_of(many, config))
    assert len(pixels) == 12
    for picture, each in zip(many, pixels):
        assert (each == transforms.to_pixels(picture_files.open_picture(picture.path), 32, 32, False)).all()
