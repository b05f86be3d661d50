"""The findings of a check: each with its difference and its bound, as a row of a table and in a report."""

from __future__ import annotations

import getpass
import json
import math
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HEADER = f"{'check':<44} {'on':<6} {'precision':<9} {'result':<6} {'difference':>10} {'bound':>8}"
_ROOT = Path(__file__).parents[3]
_FOLDERS = re.compile(r"(?<![\w<>:/])~?(?:/[^/\s'\",;:()\[\]]+){2,}")  # a path of two names or more
_SOURCE = re.compile(r"^.*(?=/[\w.-]+\.(?:py|cc|cpp|cu|h)$)|^.*$")  # what is before the name of a file of code, or all
_MOST = 400  # letters of a note


@dataclass(frozen=True)
class Finding:
    """The result of one check. A device that lacks the precision neither passes nor fails."""

    check: str
    device: str
    precision: str
    difference: float | None = None
    bound: float | None = None
    note: str = ""
    is_lacking: bool = False

    @property
    def result(self) -> str:
        """The result in a word; a number that is not finite never passes."""
        if self.is_lacking:
            return "none"
        passed = self.difference is not None and self.bound is not None and self.difference <= self.bound
        return "pass" if passed else "fail"

    def row(self) -> str:
        """Return the row of the table, and the note below it."""
        numbers = [f"{number:.2g}" if number is not None else "" for number in (self.difference, self.bound)]
        row = f"{self.check:<44} {self.device:<6} {self.precision:<9} {self.result:<6} {numbers[0]:>10} {numbers[1]:>8}"
        return row.rstrip() + (f"\n    {self.note}" if self.note else "")


def failed(check: str, device: str, precision: str, error: object) -> Finding:
    """Make the finding of a check that an error ended."""
    return Finding(check, device, precision, note=without_names(str(error)))


def without_names(text: str) -> str:
    """Shorten a text to its end, without the names of folders and of the user, for everybody's eyes."""
    for own, instead in ((str(_ROOT), "<project>"), (sys.prefix, "<python>"), (str(Path.home()), "~")):
        if len(own) > 1:
            text = text.replace(own, instead)
    text = _FOLDERS.sub(lambda path: f"<path>{_SOURCE.sub('', path[0])}", text)
    for name in {_user(), platform.node()} - {"", "root", "localhost"}:
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<name>", text)
    lines = " | ".join(line.strip() for line in text.splitlines() if line.strip())
    return lines if len(lines) <= _MOST else f"…{lines[-_MOST:]}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return ""


def report(facts: Mapping[str, Any], findings: Iterable[Finding]) -> str:
    """Return facts and findings as JSON, a line for each finding."""

    def number(value: float | None) -> float | str | None:
        return float(f"{value:.3g}") if value is not None and math.isfinite(value) else value and str(value)

    lines = [json.dumps({name: value}, ensure_ascii=False)[1:-1] for name, value in facts.items()]
    rows = [
        json.dumps([each.check, each.device, each.precision, each.result, number(each.difference), number(each.bound)]
                   + ([each.note] if each.note else []), ensure_ascii=False)
        for each in findings
    ]  # fmt: skip
    checks = ",\n  ".join(rows)
    return "{" + ",\n ".join([*lines, f'"checks": [\n  {checks}\n ]']) + "}"
