"""A section of the settings, and its fields: each is also a flag with bounds."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def flag(
    help: str,
    default: Any = None,  # noqa: ANN401  a field's default has the field's type
    *,
    course: bool = False,
    required: bool = False,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    aliases: tuple[str, ...] = (),
    **parser: Any,
) -> Any:  # noqa: ANN401
    """Make a dataclass field that is also a flag.

    `course` marks a setting that a resumed run must repeat, `required` a text, or several, that may not be empty.
    `least`, `above` and `below` bound a number. `parser` holds further arguments of argparse.
    """
    facts = dict(help=help, course=course, required=required, aliases=aliases, parser=parser)
    return dataclasses.field(default=default, metadata={**facts, "least": least, "above": above, "below": below})


@dataclass(frozen=True)
class Section:
    """A topic of the settings, checked field by field; `title` heads its flags in the help."""

    title: ClassVar[str]

    @override
    def __init_subclass__(cls, title: str) -> None:
        cls.title = title

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata["required"] and not (value.strip() if isinstance(value, str) else value):
                raise BadInput(f"--{field.name} is required")
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                _check_number(field, value)


def _check_number(field: dataclasses.Field[Any], value: float) -> None:
    """Refuse a number outside of its flag's bounds, and NaN and infinity for every flag."""
    least, above, below = (field.metadata[bound] for bound in ("least", "above", "below"))
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"--{field.name} {value}: must be a finite number")
    if least is not None and value < least:
        raise BadInput(f"--{field.name} {value}: must be at least {least}")
    if above is not None and value <= above:
        raise BadInput(f"--{field.name} {value}: must be more than {above}")
    if below is not None and value >= below:
        raise BadInput(f"--{field.name} {value}: must be less than {below}")


def check_given(values: Mapping[str, Any]) -> None:
    """Refuse a flag whose text is empty, as of a shell's variable that is not set; prompts may be empty.

    Records of earlier versions may have such values, which meant none.
    """
    for name, value in values.items():
        if isinstance(value, str) and not value.strip() and not name.endswith(("prompt", "subject")):
            raise BadInput(f"--{name}: it is empty; give it a value, or leave it out")


def check_patterns(flag: str, patterns: Iterable[str]) -> None:
    """Refuse a text that is no pattern of names, or none at all."""
    for pattern in patterns:
        if not pattern.strip():
            raise BadInput(f"{flag}: it is empty")
        try:
            re.compile(pattern)
        except re.error as error:
            raise BadInput(f"{flag} {pattern}: no pattern ({error})") from None


def check_png(flag: str, path: str | None) -> None:
    """Refuse a picture's file that is no PNG by its name."""
    if path and Path(path).suffix.lower() != ".png":
        raise BadInput(f"{flag} {path}: must end in .png")
