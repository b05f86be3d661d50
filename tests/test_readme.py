"""The README in both languages: every flag with its default, the same sections, and files that are there."""

import dataclasses
import re

import pytest
from support.commands import ROOT

from dreambooth.config.config import SECTIONS

PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README_zh.md")}


@pytest.mark.parametrize("name", PAGES)
def test_every_flag_is_told_with_its_default(name):
    flags = re.split("## Every flag|## 所有参数", PAGES[name])[1]
    rows = [line for line in flags.splitlines() if line.startswith("| `--")]
    for each in (field for section in SECTIONS.values() for field in dataclasses.fields(section)):
        for option in (f"--{each.name}", *each.metadata["aliases"]):
            [row] = [row for row in rows if f"`{option}`" in row.split("|")[1]]
        if isinstance(each.default, (int, float, str)) and not isinstance(each.default, bool):
            kind = type(each.default)
            told = [kind(value) for value in re.split("[,、]", row.split("|")[2].replace("`", "").replace(" ", ""))]
            assert each.default in told, row


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(
    "command, section",
    [
        ("infer.py", "## (?:Draw|绘图)"),
        ("dreambooth/metrics.py", "## (?:Measure|度量)"),
        ("dreambooth/identifier.py", "### (?:The identifier|标识词)"),
        ("dreambooth/export.py", "## (?:Formats|格式)"),
    ],
)
def test_every_flag_of_the_other_commands_is_told_in_their_section(name, command, section):
    text = re.split(f"\n{section}\n", PAGES[name])[1].split("\n## ")[0]
    flags = re.findall(r'add\(\s*"(--\w+)"', (ROOT / command).read_text())
    assert len(flags) >= 5 and set(flags) <= set(re.findall(r"`(--\w+)`", text))


@pytest.mark.parametrize("name", PAGES)
def test_links_and_pictures_lead_to_files(name):
    headings = re.findall("^#+ (.+)", PAGES[name], re.MULTILINE)
    sections = {"#" + heading.lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r'\]\(([^)]+)\)|src="([^"]+)"', PAGES[name]):
        target = "".join(target)
        if target.startswith("#"):
            assert target in sections
            continue
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_no_place_was_left_to_be_filled_in():
    assert not [page for page in PAGES.values() if re.search(r"@\w+@|TODO|XXX", page)]


def test_both_languages_have_the_same_sections_tables_and_commands():
    def shape(page):
        lines = page.splitlines()
        code = re.findall(r"^(?:bash|python|NNODES|GPUS|MODEL_NAME).*?(?:  |$)", page, re.MULTILINE)
        return [len(re.findall("^#+", line)[0]) for line in lines if line.startswith("#")], code

    def rows(page):
        return [re.findall(r"`[^`]+`", line.split("|")[1]) for line in page.splitlines() if line.startswith("| `")]

    english, chinese = PAGES.values()
    assert shape(english) == shape(chinese) and rows(english) == rows(chinese)


def test_the_variables_of_the_scripts_are_told():
    scripts = (ROOT / "run_single.sh").read_text() + (ROOT / "run_multi.sh").read_text()
    for variable in set(re.findall(r"\$\{([A-Z_]+):-", scripts)) - {"CUDA_VISIBLE_DEVICES", "PYTHONWARNINGS"}:
        assert all(f"`{variable}`" in page or f"{variable}=" in page for page in PAGES.values()), variable
