"""The command line: a parser made from the sections' fields, and its result as a Config."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any, NoReturn

from dreambooth.config.config import SECTIONS, Config
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Sequence


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are exceptions of one line; no flag may be shortened."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    @override
    def error(self, message: str) -> NoReturn:
        """Raise the message instead of printing the usage."""
        raise BadInput(message)


def make_parser(description: str | None) -> Parser:
    """Make the parser of train_dreambooth.py, a group of flags for each section."""
    parser = Parser(description=description, usage="python train_dreambooth.py FLAGS, or the same under the launcher")
    for section in SECTIONS.values():
        group = parser.add_argument_group(section.title)
        for field in dataclasses.fields(section):
            _add_flag(group, field)
    return parser


def _add_flag(group: argparse._ArgumentGroup, field: dataclasses.Field[Any]) -> None:
    facts, default = field.metadata, field.default
    options = [f"--{field.name}", *facts["aliases"]]
    if isinstance(default, bool):
        group.add_argument(*options, action="store_true", default=default, help=facts["help"])
        if default:
            group.add_argument(f"--no_{field.name}", dest=field.name, action="store_false", help=f"not --{field.name}")
        return
    settings = dict(facts["parser"])
    settings.setdefault("type", str if default is None else type(default))
    if "choices" not in settings:
        settings["metavar"] = {int: "N", float: "X"}.get(settings["type"], "TEXT")
    shown = "" if default is None else f" (default: {default})"
    group.add_argument(*options, dest=field.name, default=default, help=facts["help"] + shown, **settings)


def read_config(argv: Sequence[str], description: str | None) -> Config:
    """Read the settings of a training run from its command line."""
    values = vars(make_parser(description).parse_args(argv))
    if values["validation_prompt"]:
        values["validation_prompt"] = tuple(values["validation_prompt"])
    return Config.from_flat(**values)
