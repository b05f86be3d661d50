"""Presets: settings files that come with the tool, for a model, a method and a card."""

from __future__ import annotations

import difflib
from pathlib import Path

from dreambooth.system.errors import BadInput

_FOLDER = Path(__file__).parents[1] / "presets"


def path_of(name: str) -> Path:
    """Return the file of a preset; an unknown name is a BadInput with the nearest one."""
    files = {file.stem: file for file in _files()}
    if name not in files:
        near = difflib.get_close_matches(name, files, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]}?" if near else "--preset list shows them"
        raise BadInput(f"--preset {name}: there is no such preset; {remedy}")
    return files[name]


def listed() -> str:
    """Return a line for each preset: its name, and what it is for."""
    width = max(len(file.stem) for file in _files())
    return "\n".join(f"{file.stem:<{width}}  {_purpose(file)}" for file in _files())


def _files() -> list[Path]:
    return sorted(_FOLDER.glob("*.yaml"))


def _purpose(file: Path) -> str:
    """Return the first line of a preset's comment."""
    return file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
