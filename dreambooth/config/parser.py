"""The command line: a parser made from the fields of sections, and its result as settings."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from dreambooth.config.concept_sections import SubjectSettings
from dreambooth.config.config import SECTIONS, Config
from dreambooth.config.fields import Section, check_given
from dreambooth.config.sections import SourceSettings
from dreambooth.config.sources import documents, foreign_flags, overlays, presets
from dreambooth.config.sources.overlays import Layer
from dreambooth.system import console
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_Settings = TypeVar("_Settings", bound=Section)


_DASHES = "-\u2010\u2013\u2014\u2212\uff0d"  # what editors and input methods make of a hyphen
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-inf(inity)?$|-nan$", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are exceptions of one line; no flag may be shortened."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        # argparse takes -1e-4 for a flag, not for a number
        self._negative_number_matcher = _NEGATIVE

    def own_flags(self) -> list[str]:
        """List the flags, aliases among them."""
        return list(self._option_string_actions)

    @override
    def error(self, message: str) -> NoReturn:
        """Raise the message instead of printing the usage."""
        if message.startswith("unrecognized arguments: "):
            words = message.partition(": ")[2]
            remedy = "put a text with spaces into quotes; a flag that turns something on takes no value"
            if words[0] in _DASHES:
                remedy = "a flag begins with two hyphens, --"
            message = f'"{words}": these words belong to no flag; {remedy}'
        if "invalid choice: 'wandb'" in message:
            message += "; Weights & Biases reads the logs of --writer_type tensorboard"
        raise BadInput(message)


def make_parser(sections: Iterable[type[Section]], can_turn_off: bool = False, **settings: Any) -> Parser:
    """Make a parser with a group of flags for the own fields of each section; `settings` are those of argparse.

    `can_turn_off` is whether something else than the command line may have turned a flag on.
    """
    parser = Parser(**settings)
    for section in sections:
        group = parser.add_argument_group(section.title)
        for field in dataclasses.fields(section):
            if field.name in inspect.get_annotations(section):
                _add_flag(group, field, can_turn_off)
    return parser


def _add_flag(group: argparse._ArgumentGroup, field: dataclasses.Field[Any], can_turn_off: bool) -> None:
    """Add the flag of a field. A flag that is not given leaves no value, so the field's default is used."""
    facts, default = field.metadata, field.default
    options = [f"--{field.name}", *facts["aliases"]]
    if isinstance(default, bool):
        group.add_argument(*options, action="store_true", default=argparse.SUPPRESS, help=facts["help"])
        if default or can_turn_off:
            said = f"not --{field.name}" if default else argparse.SUPPRESS
            group.add_argument(
                f"--no_{field.name}", dest=field.name, action="store_false", default=argparse.SUPPRESS, help=said
            )
        return
    settings = dict(facts["parser"])
    settings.setdefault("type", type(default) if isinstance(default, (int, float)) else str)
    if "choices" not in settings:
        settings.setdefault("metavar", {int: "N", float: "X"}.get(settings["type"], "TEXT"))
    shown = "" if default in (None, ()) else f" (default: {default})"
    group.add_argument(*options, dest=field.name, default=argparse.SUPPRESS, help=facts["help"] + shown, **settings)


def make_training_parser(description: str | None) -> Parser:
    """Make the parser of train_dreambooth.py."""
    usage = "python train_dreambooth.py FLAGS, or the same under the launcher"
    return make_parser([SourceSettings, *SECTIONS.values()], True, description=description, usage=usage)


def read_config(argv: Sequence[str], description: str | None) -> Config:
    """Read the settings of a training run: those of its command line, over its file's, over a preset's."""
    values = _read_values(make_training_parser(description), argv)
    sources = SourceSettings(**{name: values.pop(name) for name in ("preset", "config") if name in values})
    if sources.preset == "list":
        console.print_message(presets.listed())
        raise SystemExit(0)
    below = []
    if sources.preset:
        below.append(_layer(presets.path_of(sources.preset), "--preset", f"preset {sources.preset}"))
    if sources.config:
        below.append(_layer(sources.config, "--config", str(sources.config)))
    merged, origins = overlays.merged([*below, Layer("the command line", values)])
    where = ""
    if "concepts" in merged:
        given, origin = merged["concepts"], origins["concepts"]
        where = f"--concepts {given}" if isinstance(given, str) else f"concepts of {origin}"
        merged["concepts"] = _subjects(given, where)
    try:
        check_given(merged)
        return dataclasses.replace(Config.from_flat(**merged), sources=origins)
    except BadInput as error:
        if where and str(error).startswith("--concepts: "):
            raise BadInput(f"{where}: {str(error).removeprefix('--concepts: ')}") from None
        name = str(error).split(maxsplit=1)[0].rstrip(":").lstrip("-")
        if origins.get(name, "the command line") == "the command line":
            raise
        raise BadInput(f"{error} ({name} is of {origins[name]})") from None


def _layer(path: str | Path, flag: str, source: str) -> Layer:
    """Read the settings of a file."""
    fields = {section: {field.name: field for field in dataclasses.fields(kind)} for section, kind in SECTIONS.items()}
    return Layer(source, overlays.settings_of(documents.read(path, flag), fields, f"{flag} {path}"))


def _subjects(given: str | list[Any], where: str) -> list[dict[str, Any]]:
    """Read the list of several subjects, which may be a file's name or the list itself."""
    document = documents.read(given, "--concepts") if isinstance(given, str) else given
    return overlays.subjects_of(document, {field.name: field for field in dataclasses.fields(SubjectSettings)}, where)


def make_command_parser(kind: type[Section], **settings: Any) -> Parser:
    """Make the parser of another command from its section and those that it extends, its own flags first."""
    extended = [each for each in kind.__mro__ if issubclass(each, Section) and each is not Section]
    return make_parser(extended, **settings)


def read_settings(kind: type[_Settings], argv: Sequence[str], **settings: Any) -> _Settings:
    """Read the settings of another command from its command line; `settings` are those of argparse."""
    values = _read_values(make_command_parser(kind, **settings), argv)
    check_given(values)
    return kind(**values)


def _read_values(parser: Parser, argv: Sequence[str]) -> dict[str, Any]:
    # before argparse, which would name another flag's bad value first
    if complaint := foreign_flags.complaint(argv, parser.own_flags()):
        parser.error(complaint)
    values = vars(parser.parse_args(argv))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
