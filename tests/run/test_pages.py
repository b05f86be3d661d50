"""Pages: nothing that comes from outside is more than text, and nothing is loaded."""

import base64
import hashlib
import re

import pytest
from jinja2 import UndefinedError
from support.commands import ROOT

from dreambooth.run.report import pages

TEMPLATES = ROOT / "dreambooth/run/report/templates"


def page(**values):
    return pages.render("base.html", title="a run", **values)


def test_a_title_is_text():
    made = pages.render("base.html", title='</title><script>alert("1")</script>')
    assert made.count("<script>") == 1 and "&lt;script&gt;" in made


def test_the_policy_names_the_one_script_that_runs():
    made = page()
    script = re.search(r"<script>(.*)</script>", made, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', made)[1]
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_nothing_is_loaded():
    for path in TEMPLATES.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|//\w+\.|@import|url\(", text), path


def test_no_value_is_marked_as_safe_or_put_into_a_script():
    for path in TEMPLATES.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "safe" not in re.findall(r"\|\s*(\w+)", text), path
        assert "autoescape" not in text and "{{" not in "".join(re.findall(r"<script>.*?</script>", text, re.S))
    for name in ("script.js", "style.css"):
        assert "{{" not in (TEMPLATES / name).read_text(encoding="utf-8")


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError):
        pages.render("report.html", title="a run")


@pytest.mark.parametrize(("value", "shown"), [(0.123456, "0.1235"), (3e-6, "3e-06"), (1234567, "1.235e+06"), (5, "5")])
def test_a_figure_has_four_digits(value, shown):
    assert pages._number(value) == shown


def test_a_long_text_is_cut_for_an_attribute():
    assert pages._cut("a\n  dog") == "a dog" and len(pages._cut("word " * 5000)) < 160


def test_a_name_that_is_no_utf8_is_shown_as_far_as_it_goes():
    made = pages.render("base.html", title="a\udce9b")
    assert "a?b" in made and made.encode()
