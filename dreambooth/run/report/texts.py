"""The texts of the pages, in English and in Chinese."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

_TEXTS: dict[str, tuple[str, str]] = {
    "prompt": ("Prompt", "提示词"),
}


def both(name: str, **values: object) -> Markup:
    """Return a text in both languages, of which the page shows one; values in it are escaped."""
    from markupsafe import Markup

    first, second = _TEXTS[name]
    english_part = Markup('<span class="en">{}</span>').format(Markup(first).format(**values))
    return english_part + Markup('<span class="zh" lang="zh">{}</span>').format(Markup(second).format(**values))


def english(name: str, **values: object) -> str:
    """Return a text in English, for an attribute, in which no element can stand; the page's script exchanges it."""
    return _TEXTS[name][0].format(**values)


def chinese(name: str, **values: object) -> str:
    """Return a text in Chinese."""
    return _TEXTS[name][1].format(**values)
