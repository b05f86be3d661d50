"""The model before the training, whose predictions are the class's targets."""

import numpy as np
import paddle
import pytest
from support.families import load_family

from dreambooth.config.learning_sections import LoraSettings
from dreambooth.data import randomness
from dreambooth.data.concepts import Example, MicroBatch, View
from dreambooth.training.lora.adapters import Adapters
from dreambooth.training.objective.diffusion import diffusion_for
from dreambooth.training.objective.reference import Reference


def trained_family(twin, rank, has_pictures=True):
    """A family, its reference, and weights that have changed since that was made."""
    family = load_family(twin)
    family.adapters = Adapters(family.learners(), "unet", LoraSettings(lora_rank=rank), seed=0)
    reference = Reference(family, diffusion_for(family.pipeline.scheduler), has_pictures)
    family.prepare_training(gradient_checkpointing=False)
    for number, parameter in enumerate(family.trained()["unet"].parameters()):
        if not parameter.stop_gradient:
            spread = np.random.default_rng(number).standard_normal(parameter.shape).astype(np.float32)
            parameter.set_value(parameter.numpy() + 0.1 * spread)
    return family, reference


def inputs(rows):
    numbers = np.random.default_rng(3)
    noisy = paddle.to_tensor(numbers.standard_normal((rows, 4, 16, 16)).astype(np.float32))
    hidden = paddle.to_tensor(numbers.standard_normal((rows, 32, 32)).astype(np.float32))
    return noisy, paddle.to_tensor([5, 300, 700][:rows]), {"hidden": hidden}


@pytest.mark.parametrize("rank", [None, 2])
def test_the_rows_of_the_class_have_the_predictions_of_the_model_before_the_training(twin, rank):
    noisy, t, conditioning = inputs(3)
    before = load_family(twin).predict(noisy, t, conditioning).numpy()
    family, reference = trained_family(twin, rank)
    now = family.predict(noisy, t, conditioning).numpy()
    assert np.abs(now - before).max() > 0.01
    target = paddle.zeros([3, 4, 16, 16])
    found = reference.replace(target, MicroBatch((0, 1, 2), prior=2), noisy, t, conditioning)
    assert found.stop_gradient and not found[0].numpy().any()
    np.testing.assert_allclose(found[1:].numpy(), before[1:], atol=1e-5)
    # the network is as it was, with its LoRA
    assert np.array_equal(family.predict(noisy, t, conditioning).numpy(), now)


def test_without_rows_of_the_class_nothing_is_predicted(twin):
    family, reference = trained_family(twin, 2)
    noisy, t, conditioning = inputs(1)
    target = paddle.ones([1, 4, 16, 16])
    assert reference.replace(target, MicroBatch((0,), prior=0), noisy, t, conditioning) is target


def test_a_batch_of_the_class_alone_has_the_predictions_alone(twin):
    _, reference = trained_family(twin, 2)
    noisy, t, conditioning = inputs(2)
    found = reference.replace(paddle.zeros_like(noisy), MicroBatch((0, 1), prior=2), noisy, t, conditioning)
    assert found.shape == noisy.shape and np.abs(found.numpy()).min(axis=(1, 2, 3)).size == 2


def test_the_copy_of_a_whole_network_does_not_train(twin):
    family, reference = trained_family(twin, None)
    copy = reference._family.denoiser
    assert copy is not family.denoiser and all(each.stop_gradient for each in copy.parameters())
    assert any(not each.stop_gradient for each in family.denoiser.parameters())


@pytest.mark.parametrize("rank", [None, 2])
def test_without_class_pictures_the_model_before_the_training_drafts_the_class(twin, rank):
    _, _, conditioning = inputs(3)
    clean, view = paddle.ones([3, 4, 16, 16]), View((8, 8), (8, 8))
    batch = MicroBatch(tuple(Example((7, slot, 1), 0, 0, view) for slot in range(3)), prior=2)
    _, reference = trained_family(twin, rank, has_pictures=False)
    found = reference.draft(clean, batch, conditioning, seed=3)
    assert np.array_equal(found[0].numpy(), clean[0].numpy()) and found.stop_gradient
    family = load_family(twin)
    noisy = paddle.to_tensor(randomness.normal(3, "class draft", batch.keys[1:], (4, 16, 16)))
    last, rows = paddle.to_tensor([999, 999]), {"hidden": conditioning["hidden"][1:]}
    with paddle.no_grad():
        predicted = family.predict(noisy, last, rows).numpy()
    kept = float(family.pipeline.scheduler.alphas_cumprod[999])
    expected = (noisy.numpy() - (1 - kept) ** 0.5 * predicted) / kept**0.5
    np.testing.assert_allclose(found[1:].numpy(), expected, rtol=1e-3, atol=1e-3)
    # a part of the batch has the same drafts
    part = MicroBatch(batch.examples[2:], prior=1)
    alone = reference.draft(clean[2:], part, {"hidden": conditioning["hidden"][2:]}, seed=3)
    np.testing.assert_allclose(alone.numpy(), found[2:].numpy(), rtol=1e-3, atol=1e-3)


def test_class_pictures_are_no_drafts(twin):
    _, reference = trained_family(twin, 2)
    clean = paddle.ones([2, 4, 16, 16])
    assert reference.draft(clean, MicroBatch((0, 1), prior=1), {}, seed=0) is clean
