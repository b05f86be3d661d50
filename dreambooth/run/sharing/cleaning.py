"""What others need not know: paths of this machine and tokens, taken out of texts or found in files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.system import console

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dreambooth.system.types import JSON

_ABSOLUTE = re.compile(r"^(?:/[^/\s]+/|~/|[A-Za-z]:[\\/]|\\\\|file:/)")
# the flags of a run that name files and folders, and the record's own
_PLACES = re.compile(r"(?:_dir|_path|^config|^sheet|^preset|^resume_from_checkpoint|_name_or_path|tokenizer_name)$")
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AISTUDIO_ACCESS_TOKEN")
_SHORTEST = 6  # letters of a secret, or of a place; a shorter one would be found in words
_CHUNK = 1 << 22  # bytes


def cleaned(value: JSON, name: str = "") -> JSON:
    """Return a JSON value in which every path of this machine is its last part, and secrets are stars.

    `name` is that of the value, by which relative paths are told from texts.
    """
    if isinstance(value, Mapping):
        return {str(key): cleaned(each, str(key)) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [cleaned(each, name) for each in value]
    return _cleaned_text(value, name) if isinstance(value, str) else value


def _cleaned_text(text: str, name: str) -> str:
    text = console.without_secrets(text)
    is_place = bool(_PLACES.search(name)) and (text.startswith(".") or _is_there(text) or text.count("/") > 1)
    if (is_place or _ABSOLUTE.match(text)) and "\n" not in text:
        return re.split(r"[\\/]", text.rstrip("\\/"))[-1] or "."
    for place in places():
        text = text.replace(place, "…")
    return text


def _is_there(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # no name that a file can have
        return False


def without_places(record: Mapping[str, Any]) -> JSON:
    """Return a run's record as others may have it: without places, and without the name of a local base's folder."""
    kept = {name: value for name, value in record.items() if name != "base_folder"}
    if record.get("base_folder"):
        kept["base_model"] = Path(str(record["base_folder"])).name
        flags = {**dict(record["flags"]), "pretrained_model_name_or_path": kept["base_model"]}
        kept["flags"] = flags
    return {**cleaned(kept), "base_folder": None}


def places() -> list[str]:
    """List the folders whose names tell about this machine: the home folder, and that of the command."""
    found = [str(Path.home()), os.getcwd()]
    found += [os.path.realpath(each) for each in found]
    return [each for each in dict.fromkeys(found) if len(each) >= _SHORTEST and each.count("/") > 1]


def secrets() -> list[str]:
    """List the tokens that this user has: none of them may be in anything."""
    found = [os.environ.get(name, "").strip() for name in _TOKEN_VARIABLES]
    from huggingface_hub import get_token

    found.append(get_token() or "")
    return [each for each in dict.fromkeys(found) if len(each) >= _SHORTEST]


def found_in(chunks: Iterable[bytes], more: Sequence[str] = ()) -> str:
    """Say what of a file others should not have: "a token", or "the path …"; nothing where there is none.

    `more` are further paths.
    """
    needles = {text.encode(): "a token" for text in secrets()}
    needles |= {text.encode(): f"the path {text}" for text in (*places(), *more)}
    needles |= {json.dumps(text)[1:-1].encode(): what for text, what in
                ((needle.decode(), what) for needle, what in tuple(needles.items()))}  # fmt: skip
    longest = max([100, *map(len, needles)])
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        for needle, what in needles.items():
            if needle in data:
                return what
        if _TOKEN.search(data):
            return "a token"
        rest = data[-longest:]
    return ""


def chunks_of(path: Path) -> Iterable[bytes]:
    """Read a file part by part."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
