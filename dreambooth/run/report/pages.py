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


def render(template: str, **values: object) -> str:
    """Fill a template of this room; every value is escaped."""
    return _environment().get_template(template).render(**values)


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
    made.globals.update(t=texts.both, english=texts.english, chinese=texts.chinese, script_hash=_script_hash)
    return made


def _script_hash() -> str:
    """Return the hash by which a page names its one script; a browser runs no other that gets into it."""
    # as the template has it: with its last line's end, which Jinja's include takes away
    script = (_TEMPLATES / _SCRIPT).read_text(encoding="utf-8").removesuffix("\n")
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
