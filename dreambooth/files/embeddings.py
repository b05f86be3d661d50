"""Learned words: a small file for each, with its vector under its name, as in the files of textual inversion.

PPDiffusers' and diffusers' load_textual_inversion read them, and so do web UIs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreambooth.files import safetensors
from dreambooth.files.safetensors import Reader
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from dreambooth.system.types import Array, Arrays

_STEM, _SUFFIX = "learned_embeds", ".safetensors"
# the names of the vectors for Stable Diffusion XL's two text encoders, in a file of one word
_OF_TWO = ("clip_l", "clip_g")
_WORD = "word"  # in the metadata of such a file


def file_names(words: Collection[str]) -> dict[str, str]:
    """Map each word to its file; that of a single one has the name that the libraries look for."""
    return {word: f"{_STEM}{f'-{word[1:-1]}' if len(words) > 1 else ''}{_SUFFIX}" for word in words}


def files_in(folder: Path) -> list[Path]:
    """List the files of words in a folder."""
    return sorted(folder.glob(f"{_STEM}*{_SUFFIX}"))


def is_in(folder: Path) -> bool:
    """Check whether a folder holds the file of a word."""
    return bool(files_in(folder))


def write(folder: Path, words: Arrays, widths: Sequence[int]) -> None:
    """Write the vector of each word into a file; `widths` says how many numbers of it each text encoder takes."""
    for word, name in file_names(words).items():
        if len(widths) == 1:
            safetensors.write(folder / name, {word: words[word][None]}, {"format": "pt"})
        else:
            parts = np.split(words[word][None], np.cumsum(widths)[:-1], axis=1)
            safetensors.write(folder / name, dict(zip(_OF_TWO, parts, strict=True)), {"format": "pt", _WORD: word})


def read(folder: Path, flag: str) -> dict[str, Array]:
    """Read the vectors [width] of all words in a folder."""
    found: dict[str, Array] = {}
    for path in files_in(folder):
        try:
            found |= checked(_joined(Reader(path), path))
        except (OSError, ValueError) as error:
            raise BadInput(f"{flag} {path}: it can't be read ({str(error).removeprefix(f'{path}: ')})") from None
    return found


def _joined(vectors: Reader, path: Path) -> Mapping[str, Array]:
    """Return the vectors of a file by word; the two of a word for two text encoders as one."""
    if set(vectors) != set(_OF_TWO):
        return vectors
    named = path.name.removeprefix(f"{_STEM}-").removesuffix(_SUFFIX)
    word = (vectors.metadata() or {}).get(_WORD, f"<{named}>")
    parts = checked(vectors)
    return {word: np.concatenate([parts[name] for name in _OF_TWO])}


def checked(weights: Mapping[str, Array]) -> dict[str, Array]:
    """Return the vectors [width] of words; ValueError where they are none, such as words of several vectors."""
    found = {}
    for word, vector in weights.items():
        if vector.ndim not in (1, 2) or vector.size != vector.shape[-1] or vector.dtype.kind != "f":
            raise ValueError(f"{safetensors.shown(word)} is not one vector")
        if not np.isfinite(vector).all():
            raise ValueError(f"{safetensors.shown(word)} has values that are no numbers")
        found[word] = vector.astype(np.float32).flatten()
    return found
