"""The figures of a run over its updates, as lines of a file: what its report draws curves from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dreambooth.files import atomic
from dreambooth.system import console, disk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import SupportsFloat

FILE = "progress.jsonl"
Group = Literal["training", "validation"]
_MOST_BYTES = 256 * 2**20  # of a file that is read


class Row(NamedTuple):
    """The figures of one step; those that are no finite numbers are left out."""

    step: int
    group: Group
    figures: dict[str, float]


class Progress:
    """The file in an output folder, to which a run adds a line at a time.

    A line is whole or ignored. Where it can't be written, the file ends with a warning, and the run goes on. A run that
    begins at `start` keeps the lines up to there, which are its own, and drops those of updates that were lost.
    """

    def __init__(self, folder: str | Path, start: int) -> None:
        self._path = Path(folder) / FILE
        self._has_ended = False
        try:
            kept = [_as_line(row) for row in read(folder) if row.step <= start] if start else []
            atomic.write_text(self._path, "".join(kept))
        except (OSError, disk.DiskFull) as error:
            self._end(error)

    def add(self, step: int, group: Group, figures: Mapping[str, SupportsFloat]) -> None:
        """Write the figures of a step."""
        if self._has_ended:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_as_line(Row(step, group, {name: float(value) for name, value in figures.items()})))
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError | disk.DiskFull) -> None:
        self._has_ended = True
        why = disk.reason(error) or getattr(error, "strerror", "")
        console.warn(f"{self._path}: {why}; the report's curves end here, and the run goes on")


def read(folder: str | Path) -> list[Row]:
    """Read the lines of a folder; without the file, none. What is no line of ours is left out."""
    path = Path(folder) / FILE
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [row for row in map(_read_line, lines) if row is not None]


def _as_line(row: Row) -> str:
    figures = {name: value if math.isfinite(value) else None for name, value in row.figures.items()}
    return json.dumps({"step": row.step, row.group: figures}) + "\n"


def _read_line(line: str) -> Row | None:
    try:
        found: Any = json.loads(line)
        group: Group = "validation" if "validation" in found else "training"
        figures = {str(name): float(value) for name, value in found[group].items() if value is not None}
        step = found["step"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):  # a torn line, or not ours
        return None
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        return None
    return Row(step, group, {name: value for name, value in figures.items() if math.isfinite(value)})
