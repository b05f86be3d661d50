"""The README in both languages: every flag with its default, the same sections, and files that are there."""

import dataclasses
import re

import pytest
from support.commands import ROOT

import infer
from dreambooth import export, identifier, metrics
from dreambooth.config import parser
from dreambooth.config.config import SECTIONS

PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README_zh.md")}


@pytest.mark.parametrize("name", PAGES)
def test_every_flag_is_listed_with_its_default(name):
    flags = re.split("## Every flag|## 所有参数", PAGES[name])[1]
    rows = [line for line in flags.splitlines() if line.startswith("| `--")]
    for each in (field for section in SECTIONS.values() for field in dataclasses.fields(section)):
        for option in (f"--{each.name}", *each.metadata["aliases"]):
            [row] = [row for row in rows if f"`{option}`" in row.split("|")[1]]
        if isinstance(each.default, (int, float, str)) and not isinstance(each.default, bool):
            kind = type(each.default)
            listed = [kind(value) for value in re.split("[,、]", row.split("|")[2].replace("`", "").replace(" ", ""))]
            assert each.default in listed, row


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(
    "settings, section",
    [
        (infer.InferSettings, "## (?:Draw|绘图)"),
        (metrics.MetricsSettings, "## (?:Measure|度量)"),
        (identifier.IdentifierSettings, "### (?:The identifier|标识词)"),
        (export.ExportSettings, "## (?:Formats|格式)"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_flag_of_the_other_commands_is_told_in_their_section(name, settings, section):
    text = re.split(f"\n{section}\n", PAGES[name])[1].split("\n## ")[0]
    actions = parser.make_command_parser(settings)._actions
    flags = {option for action in actions for option in action.option_strings if option.startswith("--")} - {"--help"}
    assert len(flags) >= 5 and flags <= set(re.findall(r"`(--\w+)`", text))


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


def test_no_gap_is_left_to_be_filled_in():
    assert not [page for page in PAGES.values() if re.search(r"@\w+@|TODO|XXX", page)]


def test_both_languages_have_the_same_sections_lists_tables_and_commands():
    def shape(page):
        lines = [line for line in page.splitlines() if line.startswith(("#", "- ", *(f"{n}. " for n in range(1, 10))))]
        code = re.findall(r"^(?:bash|python|NNODES|GPUS|MODEL_NAME).*?(?:  |$)", page, re.MULTILINE)
        return [re.match("#+|-|[0-9]", line)[0] for line in lines], code

    def rows(page):
        return [re.findall(r"`[^`]+`", line.split("|")[1]) for line in page.splitlines() if line.startswith("| `")]

    english, chinese = PAGES.values()
    assert shape(english) == shape(chinese) and rows(english) == rows(chinese)


def test_the_variables_of_the_scripts_are_listed():
    scripts = (ROOT / "run_single.sh").read_text() + (ROOT / "run_multi.sh").read_text()
    for variable in set(re.findall(r"\$\{([A-Z_]+):-", scripts)) - {"CUDA_VISIBLE_DEVICES", "PYTHONWARNINGS"}:
        assert all(f"`{variable}`" in page or f"{variable}=" in page for page in PAGES.values()), variable


def sentences(page):
    """The sentences of a page in English, without code, tables and references; a piece of code counts as one word."""
    prose = re.sub(r"```.*?```|^\|.*?$", "", page.split("## References")[0], flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"`[^`]+`", "CODE", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose))
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d\. )", prose):
        yield from re.split(r"(?<=[.!?]) (?=[A-Z\"*])", " ".join(paragraph.split()))


def test_sentences_have_at_most_25_words_and_no_contractions():
    long = [sentence for sentence in sentences(PAGES["README.md"]) if len(sentence.split()) > 25]
    assert not long
    short_forms = r"\w+n't\b|\b(?:it|that|there|what|let)'s\b|\w+'(?:re|ll|ve|d)\b"
    assert not re.findall(short_forms, PAGES["README.md"], re.IGNORECASE)
    clauses = r"\b(?:be it|of (?:its|their) own|as it stands|all that|for want of|is told)\b"
    assert not re.findall(clauses, PAGES["README.md"], re.IGNORECASE)
