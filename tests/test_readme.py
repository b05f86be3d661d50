"""The README and the documents in both languages: flags, links, commands, and the words of their sentences."""

import dataclasses
import re
import shlex

import pytest
from support.commands import ROOT

from dreambooth import bench, export, identifier, metrics
from dreambooth.config import parser
from dreambooth.config.commands import PushSettings, ReportSettings
from dreambooth.config.config import SECTIONS
from dreambooth.models import registry
from dreambooth.run.drawings.settings import InferSettings

READMES = {"en": "README.md", "zh": "README_zh.md"}
FOLDERS = {"en": "docs", "zh": "docs/zh"}
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*map(ROOT.joinpath, READMES.values()), *sorted((ROOT / "docs").rglob("*.md")))
}
ENGLISH = [name for name in PAGES if name == "README.md" or re.fullmatch(r"docs/[^/]+", name)]


def in_chinese(name):
    return "README_zh.md" if name == "README.md" else name.replace("docs/", "docs/zh/")


def section(page, heading):
    return re.split(f"^## (?:{heading})$", page, flags=re.MULTILINE)[1].split("\n## ")[0]


@pytest.mark.parametrize("name", READMES.values())
def test_the_readme_is_read_in_five_minutes(name):
    assert len(PAGES[name].splitlines()) <= 200


# each family of the registry, by its row in the README
ROWS = {
    "StableDiffusionPipeline": "Stable Diffusion 1",
    "StableDiffusionXLPipeline": "Stable Diffusion XL",
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "StableDiffusionInpaintPipeline": "inpainting models",
    "StableDiffusionUpscalePipeline": "Stable Diffusion's upscaler",
    "IFPipeline": "DeepFloyd IF",
    "IFSuperResolutionPipeline": "DeepFloyd IF",
    "UniDiffuserPipeline": "UniDiffuser",
}


def test_the_readme_has_a_row_with_a_preset_for_each_family():
    assert ROWS.keys() == registry.FAMILIES.keys()
    presets = {path.stem for path in (ROOT / "dreambooth/config/presets").glob("*.yaml")}
    english, chinese = (re.findall(r"^\| .*gb` \| .* \|$", PAGES[readme], re.MULTILINE) for readme in READMES.values())
    named = [re.findall(r"`(\w+gb)`", row) for row in english]
    assert named == [re.findall(r"`(\w+gb)`", row) for row in chinese] and presets.issuperset(sum(named, []))
    for model in ROWS.values():
        assert len([row for row in english if row.startswith(f"| {model}")]) == 1


def test_each_page_is_there_in_both_languages_and_in_the_readmes_list():
    assert {in_chinese(name) for name in ENGLISH} == PAGES.keys() - set(ENGLISH)
    for language, readme in READMES.items():
        listed = re.findall(rf"\| \[[^]]+\]\(({FOLDERS[language]}/[\w-]+\.md)\) \|$", PAGES[readme], re.MULTILINE)
        assert sorted(listed) == sorted(str(path.relative_to(ROOT)) for path in (ROOT / FOLDERS[language]).glob("*.md"))


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_every_flag_is_listed_with_its_default(folder):
    rows = [
        line for line in section(PAGES[f"{folder}/flags.md"], "Training|训练").splitlines() if line.startswith("| `--")
    ]
    for each in (field for section in SECTIONS.values() for field in dataclasses.fields(section)):
        for option in (f"--{each.name}", *each.metadata["aliases"]):
            [row] = [row for row in rows if f"`{option}`" in row.split("|")[1]]
        if isinstance(each.default, (int, float, str)) and not isinstance(each.default, bool):
            kind = type(each.default)
            listed = [kind(value) for value in re.split("[,、]", row.split("|")[2].replace("`", "").replace(" ", ""))]
            assert each.default in listed, row


COMMANDS = {
    "infer.py": (InferSettings, "Drawing|绘图"),
    "dreambooth.metrics": (metrics.MetricsSettings, "Measuring|度量"),
    "dreambooth.bench": (bench.BenchSettings, "The benchmark|基准测试"),
    "dreambooth.identifier": (identifier.IdentifierSettings, "Choosing an identifier|选择标识词"),
    "dreambooth.export": (export.ExportSettings, "Exporting|导出"),
    "dreambooth.report": (ReportSettings, "The report|报告"),
    "dreambooth.push": (PushSettings, "Sharing|分享"),
}


def flags_of(settings):
    actions = parser.make_command_parser(settings)._actions
    return {option for action in actions for option in action.option_strings if option.startswith("--")} - {"--help"}


@pytest.mark.parametrize("folder", FOLDERS.values())
@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_the_other_commands_is_listed(folder, command):
    settings, heading = COMMANDS[command]
    flags = flags_of(settings)
    listed = set(re.findall(r"`(--\w+)`", section(PAGES[f"{folder}/flags.md"], heading)))
    assert len(flags) >= 3 and flags <= listed


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", PAGES)
def test_links_and_pictures_lead_to_files_and_sections(name):
    for target in re.findall(r'\]\(([^)]+)\)|src="([^"]+)"', PAGES[name]):
        target = "".join(target)
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert file.exists(), target
        if anchor:
            headings = re.findall("^#+ (.+)", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("name", PAGES)
def test_no_gap_is_left_to_be_filled_in(name):
    assert not re.search(r"@\w+@|TODO|XXX|\{\w+\}", re.sub("```.*?```", "", PAGES[name], flags=re.DOTALL))


def commands(page):
    """The commands of a page's blocks of code, without comments, each on one line."""
    code = "\n".join(re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in code.replace("\\\n", " ").splitlines())
    return [" ".join(line.split()) for line in lines if line]


@pytest.mark.parametrize("name", ENGLISH)
def test_both_languages_have_the_same_commands_and_tables_of_flags(name):
    def rows(page):
        return [re.findall(r"`[^`]+`", line.split("|")[1]) for line in page.splitlines() if line.startswith("| `--")]

    english, chinese = PAGES[name], PAGES[in_chinese(name)]
    # the Chinese pages may have more, and their Taiyi is trained on the reader's own pictures
    lacking = [each for each in commands(english) if each not in commands(chinese) and "Taiyi" not in each]
    assert [each for each in lacking if "一张" not in each] == []
    assert rows(english) == rows(chinese)


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_the_pages_have_flags_that_exist(name):
    known = {"train_dreambooth.py": parser.make_training_parser(None)._option_string_actions}
    known |= {command: flags_of(settings) for command, (settings, _) in COMMANDS.items()}
    for line in commands(PAGES[name]):
        words = shlex.split(line)
        [command] = [word for word in words if word in known][:1] or [None]
        if command:
            flags = {word for word in words[words.index(command) :] if word.startswith("--")}
            assert flags - {"--help"} <= set(known[command]), line


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_the_variables_of_the_scripts_are_listed(folder):
    scripts = "".join((ROOT / name).read_text() for name in ("run_single.sh", "run_multi.sh"))
    text = section(PAGES[f"{folder}/flags.md"], "The variables of the scripts|脚本的环境变量")
    for variable in set(re.findall(r"\$\{([A-Z_]+):-", scripts)) - {"CUDA_VISIBLE_DEVICES", "PYTHONWARNINGS"}:
        assert f"`{variable}`" in text, variable


@pytest.mark.parametrize(
    "language, words",
    [
        ("en", "VRAM,out of memory,generate,Windows,xformers,8-bit,SDXL,FAQ,LoRA,overfitting,regularization images"),
        ("zh", "显存,触发词,正则化图像,过拟合,采样器,生成,镜像,SDXL,8-bit,xformers,Windows"),
    ],
)
def test_the_words_that_people_search_for_are_there(language, words):
    pages = ENGLISH if language == "en" else [in_chinese(name) for name in ENGLISH]
    text = "".join(PAGES[name] for name in pages)
    assert [word for word in words.split(",") if word not in text] == []


def sentences(page):
    """The sentences of a page in English, without code, tables and references; a piece of code counts as one word."""
    prose = re.sub(r"```.*?```|^\|.*?$|^#.*?$", "", page.split("## References")[0], flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"`[^`]+`", "CODE", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose))
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d\. )", prose):
        yield from re.split(r"(?<=[.!?]) (?=[A-Z\"*])", " ".join(paragraph.split()))


@pytest.mark.parametrize("name", ENGLISH)
def test_sentences_have_at_most_25_words_and_no_contractions(name):
    assert [sentence for sentence in sentences(PAGES[name]) if len(sentence.split()) > 25] == []
    short_forms = r"\w+n't\b|\b(?:it|that|there|what|let)'s\b|\w+'(?:re|ll|ve|d)\b"
    assert not re.findall(short_forms, PAGES[name], re.IGNORECASE)
    clauses = r"\b(?:be it|of (?:its|their) own|as it stands|all that|for want of|is told)\b"
    assert not re.findall(clauses, PAGES[name], re.IGNORECASE)


@pytest.mark.parametrize("name", ENGLISH)
def test_lines_of_text_end_at_the_column_where_those_of_code_do(name):
    text = re.sub(r"^```.*?^```$", "", PAGES[name], flags=re.MULTILINE | re.DOTALL)
    assert [line for line in text.splitlines() if len(line) > 120 and not line.startswith(("|", "!", "<"))] == []
