"""The Stable Diffusion XL family: its encodings and conditions against the library's own pipeline."""

import json
import shutil

import numpy as np
import paddle
import pytest
from support.families import load_family

from dreambooth.data.concepts import View
from dreambooth.models import saving

PROMPTS = ["a photo of sks dog", "a dog in snow"]


@pytest.fixture
def family(xl_twin):
    return load_family(xl_twin)


def test_prompts_are_encoded_as_the_pipeline_does(family):
    encoded = family.encode_prompts(PROMPTS)
    hidden, _, pooled, _ = family.pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    np.testing.assert_array_equal(encoded["hidden"].numpy(), hidden.numpy())
    np.testing.assert_array_equal(encoded["pooled"].numpy(), pooled.numpy())
    assert hidden.shape == [2, 16, 72] and pooled.shape == [2, 32]


def test_an_empty_prompt_is_what_the_pipeline_draws_with_for_none(family, tmp_path):
    """Zeros, or an encoding, as the model's model_index.json has it."""
    arguments = family.prompt_arguments(PROMPTS[:1], None, guided=True)
    names = {"hidden": "negative_prompt_embeds", "pooled": "negative_pooled_prompt_embeds"}
    for prompts in ([""], [PROMPTS[0], ""]):
        encoded = family.encode_prompts(prompts)
        for name, other in names.items():
            assert not encoded[name][-1].numpy().any() and not arguments[other].numpy().any()
            assert len(prompts) == 1 or encoded[name][0].numpy().any()
    own = tmp_path / "own"
    shutil.copytree(family.source.name, own)
    index = json.loads((own / "model_index.json").read_text())
    (own / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": False}))
    family = load_family(own)
    arguments = family.prompt_arguments(PROMPTS[:1], None, guided=True)
    encoded = family.encode_prompts([""])
    for name, other in names.items():
        assert encoded[name].numpy().any()
        np.testing.assert_allclose(encoded[name].numpy(), arguments[other].numpy(), atol=1e-6)
    family.save(tmp_path / "saved", "safetensors")
    assert json.loads((tmp_path / "saved/model_index.json").read_text())["force_zeros_for_empty_prompt"] is False


@pytest.mark.parametrize(
    ("view", "sizes"),
    [
        (View((32, 32), (32, 32)), [32, 32, 0, 0, 32, 32]),
        (View((100, 200), (32, 32), (50.0, 0.0, 150.0, 100.0)), [100, 200, 0, 16, 32, 32]),
        (View((100, 200), (32, 32), (0.0, 0.0, 100.0, 100.0), flip=True), [100, 200, 0, 32, 32, 32]),
        (View((200, 100), (32, 32), (0.0, 75.0, 100.0, 175.0)), [200, 100, 24, 0, 32, 32]),
        (View((64, 128), (32, 32), None, False, (0.0, 8.0, 32.0, 24.0)), [64, 128, 0, 0, 32, 32]),
    ],
    ids=["whole", "cut", "mirrored", "tall", "padded"],
)
def test_a_pictures_sizes_are_those_of_its_file_its_cut_and_its_view(family, view, sizes):
    conditioning = family.conditioning(family.encode_prompts(PROMPTS[:1]), {}, [view])
    assert conditioning["sizes"].numpy().tolist() == [sizes] and conditioning.keys() == {"hidden", "pooled", "sizes"}


def test_drawing_has_the_condition_of_a_whole_picture_of_that_size(family, monkeypatch):
    seen = []
    forward = type(family.pipeline.unet).forward

    def listening(self, *arguments, added_cond_kwargs, **more):
        seen.append(added_cond_kwargs)
        return forward(self, *arguments, added_cond_kwargs=added_cond_kwargs, **more)

    monkeypatch.setattr(type(family.pipeline.unet), "forward", listening)
    latents = family.first_latents(0, "picture", [(0,)], (32, 48))
    arguments = family.prompt_arguments(PROMPTS[:1], "blurry", guided=True)
    family.pipeline(**arguments, **latents, height=32, width=48, num_inference_steps=1, guidance_scale=2.0)
    view = View((32, 48), (32, 48))
    conditioning = family.conditioning(family.encode_prompts(["blurry", PROMPTS[0]]), {}, [view, view])
    np.testing.assert_array_equal(seen[0]["time_ids"].numpy(), conditioning["sizes"].numpy())
    np.testing.assert_allclose(seen[0]["text_embeds"].numpy(), conditioning["pooled"].numpy(), atol=1e-6)


def test_the_first_encoders_last_layers_see_no_gradient_and_stay(xl_twin):
    family = load_family(xl_twin, train_text_encoders=True)
    family.prepare_training(gradient_checkpointing=False)
    noisy = family.first_latents(0, "picture", [(0,)], (32, 32))["latents"]
    conditioning = family.conditioning(family.encode_prompts(PROMPTS[:1]), {}, [View((32, 32), (32, 32))])
    family.predict(noisy, paddle.to_tensor([500]), conditioning).square().mean().backward()
    for part, network in family.learners().items():
        names = {name for name, each in network.named_parameters() if not each.stop_gradient}
        assert names == {name for name, each in network.named_parameters() if each.grad is not None}
        frozen = {name for name, _ in network.named_parameters()} - names
        prefixes = ("text_model.encoder.layers.1.", "text_model.final_layer_norm.")
        assert bool(frozen) == (part == "text_encoder") and all(name.startswith(prefixes) for name in frozen)


def test_the_names_of_those_layers_stay_known_when_the_encoders_are_freed(family):
    before = family.untrained_layers()
    family.free_encoders()
    assert (
        family.untrained_layers()
        == before
        == {"text_encoder": ("text_model.encoder.layers.1", "text_model.final_layer_norm")}
    )


def test_one_file_has_the_names_of_the_original(family):
    found = saving.single_file_weights(family)
    assert len(found) == len({*found})
    beginnings = ("model.diffusion_model.", "first_stage_model.", "conditioner.embedders.")
    assert all(name.startswith(beginnings) for name in found)
    pipeline = family.pipeline
    for name, weight in (
        ("model.diffusion_model.label_emb.0.0.bias", pipeline.unet.add_embedding.linear_1.bias),
        ("conditioner.embedders.1.model.text_projection", pipeline.text_encoder_2.text_projection.weight),
        (
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
            pipeline.text_encoder.text_model.final_layer_norm.weight,
        ),
        (
            "conditioner.embedders.1.model.ln_final.weight",
            pipeline.text_encoder_2.text_model.final_layer_norm.weight,
        ),
    ):
        np.testing.assert_array_equal(found[name], weight.numpy())
