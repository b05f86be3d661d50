"""The sections: choices, and what each derives from its own fields."""

import dataclasses
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from dreambooth.config import concept_sections, learning_sections, run_sections, sections
from dreambooth.config.config import SECTIONS
from dreambooth.system.errors import BadInput

FIELDS = [(section, field) for section in SECTIONS.values() for field in dataclasses.fields(section)]


def test_every_section_of_the_module_is_a_part_of_the_settings():
    modules = {**vars(sections), **vars(run_sections), **vars(concept_sections), **vars(learning_sections)}
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


def test_the_size_that_is_not_a_multiple_of_eight_is_named_by_its_own_flag():
    for values, flag in ((dict(height=12), "height"), (dict(width=20), "width"), (dict(resolution=20), "resolution")):
        with pytest.raises(BadInput, match=f"--{flag} .*multiple of 8"):
            sections.PictureSettings(**values)
