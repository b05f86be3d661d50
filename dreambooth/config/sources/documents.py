"""Documents that people write: YAML, TOML and JSON files as plain texts, numbers, lists and mappings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_BYTES = 4_000_000


def read(path: str | Path, flag: str) -> Any:  # noqa: ANN401  whatever the document is
    """Read a document; of YAML, every value is a text.

    Raises BadInput where it can't be read, or has one key twice.
    """
    file, where = Path(path), f"{flag} {path}"
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise BadInput(f"{where}: must end in {', '.join(_READERS)}")
    if not file.is_file():
        raise BadInput(f"{where}: there is no such file")
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise BadInput(f"{where}: it has more than {_MOST_BYTES // 1_000_000} MB, and is no file of settings")
        return reader(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # a bad encoding is a ValueError, and so is what we raise
        raise BadInput(f"{where}: it can't be read ({_in_one_line(error)})") from None


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _read_yaml(text: str) -> Any:  # noqa: ANN401
    """Read YAML with every plain value as the text that stands there: `no` is no truth value, nor 1e-5 a word."""
    import yaml

    class Loader(yaml.BaseLoader):  # type: ignore[misc]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _refuse_twice(names)
            return dict(super().construct_mapping(node, deep))

    try:
        return yaml.load(text, Loader)  # BaseLoader makes texts, lists and mappings alone
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _read_toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return dict(tomllib.loads(text))


def _read_json(text: str) -> Any:  # noqa: ANN401
    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice(name for name, _ in pairs)
        return dict(pairs)

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number of JSON")

    return json.loads(text, object_pairs_hook=mapping, parse_constant=refuse)


def _refuse_twice(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f'"{name}" stands there twice')
        seen.add(name)


_READERS = {".yaml": _read_yaml, ".yml": _read_yaml, ".toml": _read_toml, ".json": _read_json}
