"""Pages for a browser, each in one file: no page loads anything, and a page shows all without a script."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.run.report import texts

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPT = "script.js"
_LETTERS = 150  # of a prompt where it names a picture


def render(template: str, **values: object) -> str:
    """Fill a template of this room; every value is escaped, and a name that is no UTF-8 has ? for what is none."""
    return _environment().get_template(template).render(**values).encode("utf-8", "replace").decode("utf-8")


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(t=texts.both, has_text=texts.has, script_hash=_script_hash)
    made.filters.update(number=_number, cut=_cut)
    return made


def _number(value: float) -> str:
    """Write a figure with four digits that count."""
    return f"{value:.4g}"


def _cut(text: str) -> str:
    """Shorten a text for an attribute, which is read aloud."""
    line = " ".join(str(text).split())
    return line if len(line) <= _LETTERS else f"{line[:_LETTERS]} …"


def _script_hash() -> str:
    """Return the hash by which a page names its one script; a browser runs no other that gets into it."""
    # as the template has it: with its last line's end, which Jinja's include takes away
    script = (_TEMPLATES / _SCRIPT).read_text(encoding="utf-8").removesuffix("\n")
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
