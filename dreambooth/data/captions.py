"""Captions: a prompt for each picture, in a text file beside it or in the folder's metadata.jsonl."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dreambooth.config.concept_sections import CaptionSource

METADATA = "metadata.jsonl"  # the layout of the datasets library: {"file_name": …, "text": …} on each line
_FILE, _TEXT = "file_name", "text"
_NAMED = 3  # of files with one fault


class Captions(NamedTuple):
    """The captions of a folder's pictures, and where they are from."""

    texts: tuple[str, ...] = ()  # of each picture; empty where no captions are used
    source: str = ""  # in words
    problems: tuple[str, ...] = ()  # that do not end the run


def find(
    folder: Path, pictures: Sequence[Path], kind: CaptionSource | None, flag: str, choice: str = "--captions"
) -> Captions:
    """Return the captions of pictures; without a kind they are used where every picture has one.

    `flag` is that of the folder, and `choice` that of the kind.

    Raises BadInput where a kind is asked for and a picture lacks its caption, and where the captions can't be read.
    """
    if kind == "off" or not pictures:
        return Captions()
    where = f"{flag} {folder}"
    found = {name: read(folder, pictures, where) for name, read in _READERS.items() if kind in (None, name)}
    found = {name: texts for name, texts in found.items() if texts or kind}
    if len(found) > 1:
        raise BadInput(f"{where}: its captions are in {METADATA} and in .txt files too; choose with {choice}")
    for name, texts in found.items():
        lacking = [path for path in pictures if not texts.get(path.name)]
        if not lacking:
            extra = _others(texts, pictures)
            return Captions(tuple(texts[path.name] for path in pictures), _SOURCES[name], tuple(extra))
        said = f"{len(lacking)} of {len(pictures)} pictures have no caption, or an empty one ({_named(lacking)})"
        if kind:
            raise BadInput(f"{where}: {choice} {kind}: {said}")
        return Captions(problems=(f"{where}: {said}: no captions are used; write these, or give --captions off",))
    return Captions()


def files_of(folder: Path, pictures: Sequence[Path]) -> set[Path]:
    """Return the files that may hold the captions of pictures."""
    return {folder / METADATA, *(path.with_suffix(".txt") for path in pictures)}


def _named(paths: Sequence[Path]) -> str:
    more = ", …" if len(paths) > _NAMED else ""
    return ", ".join(path.name for path in paths[:_NAMED]) + more


def _others(texts: Mapping[str, str], pictures: Sequence[Path]) -> Iterator[str]:
    """Yield a complaint about captions of pictures that are not there."""
    names = {path.name for path in pictures}
    if others := [name for name in texts if name not in names]:
        yield f"{METADATA} has captions of {len(others)} files that are no pictures here ({others[0]})"


def _read_texts(folder: Path, pictures: Sequence[Path], where: str) -> dict[str, str]:
    """Read NAME.txt beside each picture NAME.png; lines become one."""
    texts = {}
    for path in pictures:
        file = path.with_suffix(".txt")
        if not file.is_file():
            continue
        try:
            texts[path.name] = " ".join(file.read_text(encoding="utf-8-sig").split())
        except (OSError, ValueError) as error:
            raise BadInput(f"{where}: {file.name} can't be read ({error}); save it as UTF-8") from None
    return texts


def _read_metadata(folder: Path, pictures: Sequence[Path], where: str) -> dict[str, str]:
    """Read the lines of metadata.jsonl; other columns than the file's name and its text do not count."""
    file, texts = folder / METADATA, dict[str, str]()
    if not file.is_file():
        return texts
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise BadInput(f"{where}: {METADATA} can't be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row[_FILE], row.get(_TEXT)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise BadInput(
                f'{where}: line {number} of {METADATA} is not as {{"{_FILE}": "1.png", "{_TEXT}": "a caption"}}'
            ) from None
        if not isinstance(name, str) or not isinstance(text, (str, type(None))):
            raise BadInput(f'{where}: line {number} of {METADATA}: "{_FILE}" and "{_TEXT}" must be texts')
        if name in texts:
            raise BadInput(f"{where}: line {number} of {METADATA}: {name} has a caption before")
        texts[name] = " ".join((text or "").split())
    return texts


_READERS = {"txt": _read_texts, "jsonl": _read_metadata}
_SOURCES = {"txt": ".txt files", "jsonl": METADATA}
