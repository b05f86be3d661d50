"""A section of settings: its flags' facts, its bounds, its required texts."""

import dataclasses
import math
from dataclasses import dataclass

import pytest

from dreambooth.config.fields import Section, flag
from dreambooth.system.errors import BadInput


@dataclass(frozen=True)
class Sample(Section, title="a sample"):
    name: str = flag("the name", "x", required=True)
    count: int = flag("at least one", 1, least=1, course=True, aliases=("--number",))
    share: float = flag("from 0 to below 1", 0.0, least=0, below=1)
    rate: float | None = flag("above 0", type=float, above=0)
    on: bool = flag("a switch", False)


def test_the_defaults_are_valid():
    assert Sample() == Sample("x", 1, 0.0, None, False)


@pytest.mark.parametrize(
    "values, complaint",
    [
        (dict(count=0), "--count 0: must be at least 1"),
        (dict(share=1), "--share 1: must be less than 1"),
        (dict(share=-0.1), "--share -0.1: must be at least 0"),
        (dict(rate=0), "--rate 0: must be more than 0"),
        *((dict(rate=value), "must be a finite number") for value in (math.nan, math.inf, -math.inf)),
        (dict(name=""), "--name is required"),
        (dict(name="  "), "--name is required"),
        (dict(name=None), "--name is required"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_flag(values, complaint):
    with pytest.raises(BadInput) as caught:
        Sample(**values)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("values", [dict(count=1), dict(share=0), dict(share=0.999), dict(rate=1e-9), dict(on=True)])
def test_a_value_at_its_bound_passes(values):
    assert Sample(**values)


def test_a_field_carries_the_facts_of_its_flag():
    fields = {field.name: field for field in dataclasses.fields(Sample)}
    assert fields["count"].metadata["aliases"] == ("--number",) and fields["count"].metadata["course"]
    assert not fields["share"].metadata["course"] and fields["rate"].metadata["parser"] == {"type": float}
    assert Sample.title == "a sample"


def test_a_section_can_not_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sample().count = 2
