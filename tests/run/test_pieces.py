"""The counts of weights and activations are those of the networks themselves."""

import json
from typing import get_args

import paddle
import pytest
from support.families import load_family
from support.known_sizes import STABLE_DIFFUSION_1, STABLE_DIFFUSION_XL, UNET, UNET_OF_XL

from dreambooth.config.learning_sections import LayerKind, LoraSettings
from dreambooth.models import registry
from dreambooth.run.memory import pieces
from dreambooth.run.memory.pieces import Shape
from dreambooth.training.lora.adapters import Adapters


def settings_of(folder, part="unet"):
    return json.loads((folder / part / "config.json").read_text())


def saved_numbers(parameters, compute):
    """Count the numbers that a forward pass keeps for the backward pass, beside the weights."""
    own, found = {each.data_ptr() for each in parameters}, {}

    def keep(tensor):
        if tensor.data_ptr() not in own:
            found[tensor.data_ptr()] = max(found.get(tensor.data_ptr(), tensor), tensor, key=lambda each: each.size)
        return tensor

    with paddle.autograd.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute()
    assert result is not None
    return sum(tensor.size for tensor in found.values())


@pytest.mark.parametrize("name", ["twin", "velocity_twin", "xl_twin"])
@pytest.mark.parametrize("rows, side", [(1, 16), (2, 32)])
def test_a_unet_has_the_counted_weights_and_keeps_the_counted_numbers(request, name, rows, side):
    folder = request.getfixturevalue(name)
    family = load_family(folder)
    family.prepare_training(gradient_checkpointing=False)
    unet = family.denoiser
    tokens = 16
    counted = pieces.unet(settings_of(folder), Shape(rows, (side, side), tokens))
    assert sum(piece.weights for piece in counted) == sum(each.size for each in unet.parameters())

    def compute():
        noisy, prompts = (
            paddle.randn([rows, 4, side, side]),
            paddle.randn([rows, tokens, unet.config.cross_attention_dim]),
        )
        added = dict(text_embeds=paddle.randn([rows, 32]), time_ids=paddle.randn([rows, 6]))
        more = dict(added_cond_kwargs=added) if name == "xl_twin" else {}
        return unet(noisy, paddle.to_tensor([5] * rows), prompts, **more).sample

    kept = saved_numbers(unet.parameters(), compute)
    assert sum(piece.saved + sum(piece.scores) for piece in counted) == pytest.approx(kept, rel=0.03)


def test_unidiffuser_keeps_the_counted_numbers(unidiffuser_twin):
    family = load_family(unidiffuser_twin)
    unet, settings = family.denoiser, settings_of(unidiffuser_twin)
    unet.eval()
    side = settings["sample_size"]
    counted = pieces.unidiffuser(settings, Shape(2, (side, side), 0))
    of_blocks = sum(each.size for each in unet.transformer.parameters())
    assert sum(piece.weights for piece in counted) == pytest.approx(of_blocks, rel=0.05)
    whole = pieces.whole(counted, sum(each.size for each in unet.parameters()))
    assert sum(piece.weights for piece in whole) == sum(each.size for each in unet.parameters())

    def compute():
        hidden = paddle.randn([2, unet.num_tokens, unet.inner_dim])
        hidden.stop_gradient = False
        return unet.transformer(hidden, return_dict=False, hidden_states_is_embedding=True, unpatchify=False)[0]

    kept = saved_numbers(unet.parameters(), compute)
    assert sum(piece.saved + sum(piece.scores) for piece in counted) == pytest.approx(kept, rel=0.05)


@pytest.mark.parametrize("rows", [1, 2])
def test_sd3_has_the_counted_weights_and_keeps_the_counted_numbers(sd3_twin, rows):
    family = load_family(sd3_twin)
    family.prepare_training(gradient_checkpointing=False)
    transformer, settings = family.denoiser, settings_of(sd3_twin, "transformer")
    counted = pieces.multimodal(settings, Shape(rows, (16, 16), 16))
    named = dict(transformer.named_parameters())
    zeros = sum(each.size for name, each in named.items() if name.endswith("norm.bias"))
    assert sum(piece.weights for piece in counted) == sum(each.size for each in named.values()) - zeros

    def compute():
        noisy, prompts, pooled = (
            paddle.randn([rows, 16, 16, 16]),
            paddle.randn([rows, 272, 80]),
            paddle.randn([rows, 64]),
        )
        return transformer(noisy, prompts, pooled, paddle.to_tensor([5.0] * rows), return_dict=False)[0]

    kept = saved_numbers(transformer.parameters(), compute)
    assert sum(piece.saved + sum(piece.scores) for piece in counted) == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize("name", ["pixels_twin", "pixels_upscaler_twin"])
@pytest.mark.parametrize("rows, side", [(1, 16), (2, 32)])
def test_a_unet_of_pixels_has_the_counted_weights_and_keeps_the_counted_numbers(request, name, rows, side):
    folder = request.getfixturevalue(name)
    family = load_family(folder)
    family.prepare_training(gradient_checkpointing=False)
    unet = family.denoiser
    counted = pieces.unet_of_pixels(settings_of(folder), Shape(rows, (side, side), 77))
    of_prompts = ("encoder_hid_proj", "add_embedding", "class_embedding")  # and of the level of the noise
    others = sum(each.size for name, each in unet.named_parameters() if name.startswith(of_prompts))
    assert sum(piece.weights for piece in counted) + others == sum(each.size for each in unet.parameters())

    def compute():
        noisy, prompts = paddle.randn([rows, unet.config.in_channels, side, side]), paddle.randn([rows, 77, 40])
        more = {"class_labels": paddle.to_tensor([20] * rows)} if family.facts.enlarges else {}
        return unet(noisy, paddle.to_tensor([5] * rows), prompts, **more).sample

    kept = saved_numbers(unet.parameters(), compute)
    assert sum(piece.saved + sum(piece.scores) for piece in counted) == pytest.approx(kept, rel=0.03)


@pytest.mark.parametrize("kind, close", [("attention", 0.1), ("convolution", 0), ("time", 0)])
def test_a_lora_of_a_unet_of_pixels_has_the_counted_weights(pixels_twin, kind, close):
    family = load_family(pixels_twin)
    adapters = Adapters(family.learners(), "unet", LoraSettings(lora_rank=3, lora_targets=(kind,)), 0)
    counted = pieces.unet_of_pixels(settings_of(pixels_twin), Shape(1, (16, 16), 77))
    trained = sum(each.size for each in adapters["unet"].parameters())
    assert 3 * pieces.adapted_weights(counted)[kind] == pytest.approx(trained, rel=close)


@pytest.mark.parametrize("kind", ["attention", "feed_forward", "time"])
def test_a_lora_of_sd3_has_the_counted_weights(sd3_twin, kind):
    family = load_family(sd3_twin)
    learners, untrained = family.learners(), family.untrained_layers()
    adapters = Adapters(learners, "transformer", LoraSettings(lora_rank=3, lora_targets=(kind,)), 0, untrained)
    counted = pieces.multimodal(settings_of(sd3_twin, "transformer"), Shape(1, (16, 16), 16))
    trained = sum(each.size for each in adapters["transformer"].parameters())
    assert 3 * pieces.adapted_weights(counted)[kind] == trained


@pytest.mark.parametrize("name", ["twin", "bert_twin"])
def test_a_text_encoder_keeps_the_counted_numbers(request, name):
    folder = request.getfixturevalue(name)
    family = load_family(folder)
    encoder, settings = family.pipeline.text_encoder, settings_of(folder, "text_encoder")
    encoder.eval()
    tokens = settings["max_position_embeddings"]
    counted = pieces.text_encoder(settings, Shape(2, (0, 0), tokens))
    kept = saved_numbers(encoder.parameters(), lambda: family.encode_prompts(["sks", "a dog"])["hidden"])
    assert sum(piece.saved + sum(piece.scores) for piece in counted) == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize("rank", [1, 4])
def test_a_lora_has_the_counted_weights(twin, rank):
    family = load_family(twin)
    adapters = Adapters(family.learners(), family.facts.denoiser, LoraSettings(lora_rank=rank), 0)
    counted = pieces.unet(settings_of(twin), Shape(1, (16, 16), 16))
    trained = sum(each.size for each in adapters["unet"].parameters())
    assert rank * pieces.adapted_weights(counted)["attention"] == trained


@pytest.mark.parametrize("kind", get_args(LayerKind))
@pytest.mark.parametrize("model", ["twin", "velocity_twin"])
def test_a_lora_of_each_kind_of_layers_has_the_counted_weights(model, kind, request):
    folder = request.getfixturevalue(model)
    family = load_family(folder, train_text_encoders=True)
    # the hidden layers of the twin's text encoder are narrower than CLIP's
    parts = ("unet", "text_encoder") if kind == "attention" else ("unet",)
    learners = {part: family.learners()[part] for part in parts}
    adapters = Adapters(learners, "unet", LoraSettings(lora_rank=3, lora_targets=(kind,)), 0)
    counted = {
        "unet": pieces.unet(settings_of(folder), Shape(1, (16, 16), 16)),
        "text_encoder": pieces.text_encoder(settings_of(folder, "text_encoder"), Shape(1, (0, 0), 16)),
    }
    for part in parts:
        trained = sum(each.size for each in adapters[part].parameters())
        assert 3 * pieces.adapted_weights(counted[part])[kind] == trained


def test_every_network_that_trains_is_counted():
    for facts in registry.FAMILIES.values():
        for part in facts.learners:
            assert facts.kinds[part] in pieces.COUNTS


def test_stable_diffusion_1_has_its_known_number_of_weights():
    counted = pieces.unet(UNET, Shape(1, (64, 64), 77))
    assert sum(piece.weights for piece in counted) == STABLE_DIFFUSION_1.weights["unet"]
    # 8 heads of 4096 x 4096 scores in five layers, and smaller ones
    of_xl = pieces.unet(UNET_OF_XL, Shape(1, (128, 128), 77))
    assert sum(piece.weights for piece in of_xl) == STABLE_DIFFUSION_XL.weights["unet"]
    assert 5 * 8 * 4096**2 < sum(sum(piece.scores) for piece in counted) < 6 * 8 * 4096**2
