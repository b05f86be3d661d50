"""The rows of the registry: their classes, their roles, and that they are readable before the libraries are loaded."""

import dataclasses
import importlib
import inspect

import pytest
from support.commands import python

from dreambooth.models import registry
from dreambooth.models.family.base import Family


def family_class(facts):
    module, name = facts.family.split(":")
    return getattr(importlib.import_module(f"dreambooth.models.families.{module}"), name)


@pytest.mark.parametrize("facts", registry.FAMILIES.values(), ids=registry.FAMILIES)
def test_a_row_names_its_class_and_its_roles_are_parts(facts):
    kind = family_class(facts)
    assert issubclass(kind, Family) and kind.facts is facts and not inspect.isabstract(kind)
    encoders = {*facts.text_encoders, *facts.prompt_encoders, *facts.picture_encoders}
    assert {facts.denoiser, *encoders} <= set(facts.networks) and set(facts.text_encoders) <= set(facts.prompt_encoders)
    assert set(facts.tokenizers) <= set(facts.without_weights)
    assert len(facts.tokenizers) == len(facts.text_encoders or facts.prompt_encoders)
    assert facts.decoder in (*facts.picture_encoders, "") and bool(facts.decoder) == bool(facts.picture_encoders)
    assert {*facts.networks, *facts.without_weights, *facts.schedulers} == set(facts.parts)
    assert "scheduler" in facts.schedulers
    assert facts.newer_names.keys() | facts.untrained_layers.keys() <= facts.parts.keys()
    assert set(facts.learners) == {facts.denoiser, *facts.text_encoders} == facts.labels.keys()
    assert facts.lora_prefixes.keys() == facts.web_ui_layers.keys() <= set(facts.learners)
    assert bool(facts.lora_prefixes) == bool(facts.web_ui_networks)
    assert set(facts.other_lora_names.values()) <= set(facts.learners)
    names = {prefix: part for part, prefix in facts.lora_prefixes.items()} | dict(facts.other_lora_names)
    assert names.items() <= registry.LORA_PARTS.items()  # no two families differ in what a name stands for


def test_the_facts_are_readable_without_the_libraries():
    code = "import sys; from dreambooth.models.registry import FAMILIES; print(*FAMILIES, *sys.modules)"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[: len(registry.FAMILIES)] == list(registry.FAMILIES)
    assert not {"paddle", "ppdiffusers", "paddlenlp", "numpy"} & set(words)


# LoRA files

_UNET, _TEXT = "down_blocks.0.attn1.to_q", "text_model.encoder.layers.0.self_attn.q_proj"


def test_a_lora_alone_has_the_prefixes_of_the_family_that_has_its_layers():
    unet, text = {"unet": [_UNET]}, {"text_encoder": [_TEXT]}
    assert registry.lora_prefixes(unet) == {"unet": "lora_unet_"}
    assert registry.lora_prefixes({"unet": [_UNET.replace(".", "_")]}) == {"unet": "lora_unet_"}
    assert registry.lora_prefixes({**unet, **text}) == {"unet": "lora_unet_", "text_encoder": "lora_te_"}
    of_xl = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    assert registry.lora_prefixes({**unet, **text, "text_encoder_2": [_TEXT]}) == of_xl
    assert registry.lora_prefixes({"transformer": [_UNET]}) is None
    assert registry.lora_prefixes({"unet": [_UNET, "transformer.blocks.0.attn.to_q"]}) is None
    assert registry.lora_prefixes({**unet, "text_encoder": ["encoder.layer.0.attention.self.query"]}) is None


def test_a_lora_that_two_families_name_differently_has_no_prefixes(monkeypatch):
    row = registry.FAMILIES["StableDiffusionPipeline"]
    other = dataclasses.replace(row, pipeline="Other", lora_prefixes={**row.lora_prefixes, "text_encoder": "lora_te1_"})
    monkeypatch.setitem(registry.FAMILIES, "Other", other)
    assert registry.lora_prefixes({"unet": [_UNET]}) == {"unet": "lora_unet_"}
    assert registry.lora_prefixes({"unet": [_UNET], "text_encoder": [_TEXT]}) is None


def test_a_lora_files_names_begin_with_a_part_or_its_prefix():
    assert registry.LORA_PARTS == {
        "lora_unet_": "unet",
        "lora_te_": "text_encoder",
        "lora_te1_": "text_encoder",
        "lora_te2_": "text_encoder_2",
        "unet.": "unet",
        "text_encoder.": "text_encoder",
        "text_encoder_2.": "text_encoder_2",
        "transformer.": "transformer",
        "": "unet",
    }


def test_what_diffusers_loads_of_a_lora():
    def unread(index, *parts):
        return registry.unread_by_diffusers(index, parts)

    clip = {"_class_name": "StableDiffusionPipeline", "text_encoder": ["ppdiffusers", "CLIPTextModel"]}
    bert = {**clip, "text_encoder": ["ppdiffusers", "BertModel"]}
    assert unread(clip, "unet", "text_encoder") == unread(bert, "unet") == ""
    assert (
        unread(bert, "unet", "text_encoder") == "diffusers loads the UNet's part of the LoRA, and none of a BertModel"
    )
    assert unread({"_class_name": "UniDiffuserPipeline"}, "unet") == "diffusers loads no LoRA of a UniDiffuserPipeline"


def test_what_web_uis_load_is_named_once_each():
    assert registry.WEB_UI_NETWORKS == "Stable Diffusion's UNet and CLIP or Stable Diffusion XL's UNet and CLIPs"
