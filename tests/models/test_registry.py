"""The rows of the registry: their classes, their roles, and that they are readable before the libraries are loaded."""

import importlib
import inspect

import pytest
from support.commands import python

from dreambooth.models import registry
from dreambooth.models.families.base import Family


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
    assert len(facts.tokenizers) == len(facts.text_encoders)
    assert {*facts.networks, *facts.without_weights, "scheduler"} == set(facts.parts)
    assert facts.newer_names.keys() | facts.untrained_layers.keys() <= facts.parts.keys()
    assert facts.lora_prefixes.keys() <= {facts.denoiser, *facts.text_encoders}


def test_the_facts_are_readable_without_the_libraries():
    code = "import sys; from dreambooth.models.registry import FAMILIES; print(*FAMILIES, *sys.modules)"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[: len(registry.FAMILIES)] == list(registry.FAMILIES)
    assert not {"paddle", "ppdiffusers", "paddlenlp", "numpy"} & set(words)


# tensors


def test_a_lora_alone_has_the_prefixes_of_the_family_that_has_its_parts():
    assert registry.lora_prefixes(["unet"])["unet"] == "lora_unet_"
    assert registry.lora_prefixes(["unet", "text_encoder"])["text_encoder"] == "lora_te_"
    assert registry.lora_prefixes(["transformer"]) == {}
    assert registry.LORA_PARTS == {"lora_unet_": "unet", "lora_te_": "text_encoder"}
