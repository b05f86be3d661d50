"""The texts of pages: each in both languages, with the same values, and none that no page shows."""

import re

import pytest
from support.commands import ROOT

from dreambooth.run.report import texts

TEMPLATES = [path.read_text(encoding="utf-8") for path in (ROOT / "dreambooth/run").rglob("templates/*.html")]


def fields(text):
    return sorted(re.findall(r"\{(\w+)\}", text))


@pytest.mark.parametrize("name", texts._TEXTS)
def test_both_languages_have_a_text_and_the_same_values(name):
    english, chinese = texts._TEXTS[name]
    assert english.strip() and chinese.strip() and fields(english) == fields(chinese)
    assert not re.search("[\u3400-\u9fff]", english)
    assert re.search("[\u3400-\u9fff]", chinese)


def test_every_text_that_a_page_asks_for_is_there_and_no_other():
    """Those with a part that a figure or a state names are asked for as a whole."""
    asked = {name for page in TEMPLATES for name in re.findall(r"\bt\('([^']+)'[,)]", page)}
    begun = {name for page in TEMPLATES for name in re.findall(r"\bt\('([^']+ )' ~", page)}
    known = {*texts._TEXTS}
    assert asked <= known
    assert {name for name in known - asked if not name.startswith(tuple(begun))} == set()


def test_values_are_escaped():
    found = str(texts.both("left out", count="<script>alert(1)</script>"))
    assert "<script>" not in found and found.count("&lt;script&gt;") == 2
