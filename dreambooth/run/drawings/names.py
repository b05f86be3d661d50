"""The files of drawn pictures: names that read like their prompts, and that no other picture has."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from PIL import Image

from dreambooth.files import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def save(picture: Image.Image, path: Path, text: Mapping[str, Any]) -> Path:
    """Write a PNG with its settings in its text; return its path."""
    atomic.write_picture(path, picture, text)
    return path


def free(path: Path, text: Mapping[str, Any]) -> Path:
    """Return the path, or one like it, where no picture is of another model or other settings."""
    for number in itertools.count(2):
        try:
            with Image.open(path) as there:
                if there.info == {name: atomic.text_in_picture(value) for name, value in text.items()}:
                    return path
        except FileNotFoundError:
            return path
        except (OSError, ValueError, SyntaxError):  # no picture, or a damaged one
            if not path.exists():  # or no name that a file can have
                raise
        path = path.with_name(f"{path.stem.partition('~')[0]}~{number}.png")
    raise AssertionError("there is always a number")


def slug(text: str, most: int = 160) -> str:
    """Make a part of a file name that reads like a text, in any script; file systems count its bytes."""
    words = re.sub(r"\W+", "-", text).strip("-")[:60]
    return words.encode()[:most].decode(errors="ignore") or "picture"
