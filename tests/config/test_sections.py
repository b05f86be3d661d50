"""The sections: choices, and what each derives from its own fields."""

import dataclasses
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from dreambooth.config import concept_sections, learning_sections, run_sections, sections
from dreambooth.config.config import SECTIONS
from dreambooth.system.errors import BadInput

FIELDS = [(section, field) for section in SECTIONS.values() for field in dataclasses.fields(section)]


def test_every_section_of_the_module_is_a_part_of_the_settings():
    modules = {**vars(sections), **vars(run_sections), **vars(concept_sections)}
    defined = {kind for name, kind in modules.items() if name.endswith("Settings")}
    beside = {sections.SourceSettings, concept_sections.SubjectSettings, concept_sections.ClassSettings}
    assert defined == {*SECTIONS.values(), *beside}


def without_none(kind):
    """The type of a setting that may be None."""
    parts = [part for part in get_args(kind) if part is not type(None)]
    return parts[0] if type(None) in get_args(kind) and len(parts) == 1 else kind


@pytest.mark.parametrize("section, field", FIELDS, ids=lambda each: getattr(each, "name", None))
def test_the_choices_of_a_flag_are_those_of_its_type(section, field):
    kind = without_none(get_type_hints(section)[field.name])
    choices = field.metadata["parser"].get("choices")
    assert (choices is not None) == (get_origin(kind) is Literal)
    if choices is not None:
        assert choices == get_args(kind) and field.default in (*choices, None)


@pytest.mark.parametrize("section, field", FIELDS, ids=lambda each: getattr(each, "name", None))
def test_a_default_has_the_type_of_its_field(section, field):
    kind = get_type_hints(section)[field.name]
    if get_origin(without_none(kind)) is not Literal and not field.metadata["required"]:
        allowed = tuple(get_origin(part) or part for part in get_args(kind) or (kind,))
        assert isinstance(field.default, allowed)


def test_schedules_without_warmup_or_end_are_schedules():
    assert {*learning_sections.SCHEDULES_WITHOUT_WARMUP, *learning_sections.SCHEDULES_WITHOUT_END} <= set(
        get_args(learning_sections.Schedule)
    )


def test_a_lora_has_the_scale_one_by_default():
    assert learning_sections.LoraSettings().alpha == 0 and learning_sections.LoraSettings().saves_pipeline
    lora = learning_sections.LoraSettings(lora_rank=4)
    assert (lora.alpha, lora.dropout, lora.saves_pipeline) == (4, 0.0, False)
    assert learning_sections.LoraSettings(lora_rank=4, lora_alpha=2.0, lora_merge=True).saves_pipeline
    assert learning_sections.LoraSettings(lora_rank=4, lora_alpha=2.0).alpha == 2.0


@pytest.mark.parametrize("changes", [dict(lora_alpha=1.0), dict(lora_dropout=0.1), dict(lora_merge=True)])
def test_a_setting_of_a_lora_needs_a_rank(changes):
    with pytest.raises(BadInput, match=f"--{next(iter(changes))} needs --lora_rank"):
        learning_sections.LoraSettings(**changes)


def test_the_size_that_is_not_a_multiple_of_eight_is_named_by_its_own_flag():
    for values, flag in ((dict(height=12), "height"), (dict(width=20), "width"), (dict(resolution=20), "resolution")):
        with pytest.raises(BadInput, match=f"--{flag} .*multiple of 8"):
            sections.PictureSettings(**values)
