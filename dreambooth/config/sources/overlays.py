"""The settings of a document under the flags' names, and which of several sources holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth.config.sources import foreign_flags
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    import dataclasses
    from collections.abc import Iterable, Iterator, Mapping

    Fields = Mapping[str, Mapping[str, dataclasses.Field[Any]]]  # of each section, by flag

_TRUE, _FALSE, _NONE = ("true", "yes", "on"), ("false", "no", "off"), ("", "null", "~")
# a setting -> those beneath it that say the same in other words, and would have priority over it
_REPLACES = {
    "max_train_steps": ("num_train_epochs",),
    "num_train_epochs": ("max_train_steps",),
    "resolution": ("height", "width"),
    "concepts": ("instance_data_dir", "instance_prompt", "subject", "mask_dir"),
    "instance_data_dir": ("concepts",),
    "instance_prompt": ("concepts",),
}
_LISTS = ("concepts",)  # settings that are a list, or a file that has it
# of a run's record: how that run began, and not what it is
_OF_ONE_START = ("resume_from_checkpoint", "allow_changes", "overwrite", "dry_run", "sheet", "verbose")


class Layer(NamedTuple):
    """Values by flag, and the source that they come from, in words."""

    source: str
    values: Mapping[str, Any]


def settings_of(document: Any, fields: Fields, where: str) -> dict[str, Any]:  # noqa: ANN401
    """Return the values of a document by flag; its keys are flags, or sections with flags in them.

    The record of a run (training_args.json) is such a document too. Raises BadInput, which begins with `where`.
    """
    if isinstance(document, dict) and isinstance(document.get("flags"), dict):
        document = {name: value for name, value in document["flags"].items() if name not in _OF_ONE_START}
    if not isinstance(document, dict):
        raise BadInput(f"{where}: it must have lines such as `learning_rate: 5e-6`")
    names = {name: field for section in fields.values() for name, field in section.items()}
    aliases = {alias.lstrip("-"): name for name, field in names.items() for alias in field.metadata["aliases"]}
    found: dict[str, Any] = {}
    for key, value in _items(document, fields, where):
        name = aliases.get(key, key)
        if name not in names:
            remedy = foreign_flags.remedy(key, [f"--{each}" for each in (*names, *aliases)])
            raise BadInput(f'{where}: "{key}": there is no such setting; {remedy}')
        if name in found:
            raise BadInput(f'{where}: "{name}" stands there twice')
        try:
            found[name] = _converted(names[name], value)
        except ValueError as error:
            raise BadInput(f"{where}: {key}: {value!r:.80}: {error}") from None
    return {name: value for name, value in found.items() if value is not None}


def subjects_of(document: Any, fields: Mapping[str, dataclasses.Field[Any]], where: str) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return the values of several subjects by name; the document is their list, or has it under `concepts`.

    Raises BadInput, which begins with `where`.
    """
    if isinstance(document, dict) and document.keys() == {*_LISTS}:
        [document] = document.values()
    if not isinstance(document, list) or not document or not all(isinstance(each, dict) for each in document):
        raise BadInput(f"{where}: it must be a list of subjects, each with {' and '.join(list(fields)[:2])}")
    found = []
    for number, each in enumerate(document, 1):
        of_subject = f"{where}: subject {number}"
        if nested := [name for name, value in each.items() if isinstance(value, dict)]:
            raise BadInput(f'{of_subject}: "{nested[0]}": must be a plain value')
        try:
            found.append(settings_of(each, {"subject": fields}, of_subject))
        except BadInput as error:  # a list has names, and not flags
            names = f"the names are {', '.join(fields)}"
            said = str(error).replace("did you mean --", "did you mean ").replace("--help lists the flags", names)
            raise BadInput(said) from None
    return found


def _items(document: Mapping[str, Any], fields: Fields, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a document, those in its sections too."""
    for key, value in document.items():
        if not isinstance(value, dict):
            yield str(key), value
            continue
        if key not in fields:
            raise BadInput(f'{where}: "{key}": there is no such section; the sections are {", ".join(fields)}')
        for name, inner in value.items():
            homes = [section for section, own in fields.items() if name in own]
            if homes and homes != [key]:
                raise BadInput(f'{where}: "{name}" is in section {key}; it belongs to {homes[0]}')
            yield str(name), inner


def _converted(field: dataclasses.Field[Any], value: Any) -> Any:  # noqa: ANN401
    """Return a value in its flag's type, None where the default is to hold; raises ValueError."""
    facts, default = field.metadata["parser"], field.default
    if isinstance(value, list) and field.name in _LISTS:
        return value
    if value is None or (isinstance(value, str) and value.strip() in _NONE):
        return None
    if facts.get("action") in ("append", "extend"):
        texts = value if isinstance(value, list) else [value]
        return tuple(_text(each) for each in texts)
    if isinstance(default, bool):
        return _truth(value)
    kind = facts.get("type", type(default) if isinstance(default, (int, float)) else str)
    if kind in (int, float):
        return _number(value, kind)
    text = _text(value)
    if "choices" in facts and text not in facts["choices"]:
        raise ValueError(f"must be one of {', '.join(facts['choices'])}")
    return text


def _text(value: Any) -> str:  # noqa: ANN401
    if not isinstance(value, str):
        raise ValueError("must be a text; put it into quotes")
    return value


def _truth(value: Any) -> bool:  # noqa: ANN401
    word = value.strip().lower() if isinstance(value, str) else value
    if word is True or word in _TRUE:
        return True
    if word is False or word in _FALSE:
        return False
    raise ValueError("must be true or false")


def _number(value: Any, kind: type[int] | type[float]) -> float:  # noqa: ANN401
    """Return a number; a text such as 5e-6 is one too."""
    what = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"must be {what}")
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        raise ValueError(f"must be {what}") from None
    if kind is int and isinstance(value, float) and number != value:
        raise ValueError(f"must be {what}")
    return number


def merged(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """Lay each layer over those before it; return (values by flag, the source of each)."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for name in layer.values:
            for other in _REPLACES.get(name, ()):
                if other not in layer.values:
                    values.pop(other, None)
                    sources.pop(other, None)
        values |= layer.values
        sources |= dict.fromkeys(layer.values, layer.source)
    return values, sources
