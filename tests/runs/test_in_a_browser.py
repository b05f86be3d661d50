"""The pages in a real browser: at three widths, in both schemes and languages, without a script, printed.

They are skipped where there is no Chromium.
"""

from pathlib import Path

import axe_core_python
import pytest
from PIL import Image
from support import browser
from support.finished_runs import HOSTILE, PROMPT, make_run

from dreambooth.run.drawings import cells, labelled
from dreambooth.run.drawings.axes import Axis
from dreambooth.run.report import comparing, contents, single

pytestmark = pytest.mark.skipif(browser.found() is None, reason="there is no Chromium")
WIDTHS = (390, 768, 1280)
AXE = Path(axe_core_python.__file__).parent / "axe.min.js"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.opened(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def fresh(request):
    if "page" in request.fixturenames:
        shown = request.getfixturevalue("page")
        shown.errors.clear()
        shown.requests.clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four pages: of a run, of one with hostile texts, of the two compared, and of a grid with hostile labels."""
    folder = tmp_path_factory.mktemp("pages")
    figures = {step: {"score": step / 10, "CLIP-I": 0.5, "validation_loss": 0.1} for step in (0, 2, 4)}
    given = dict(with_prior_preservation=True, class_prompt="a dog", class_data_dir=str(folder / "classes"))
    given |= dict(keep_best=True, validation_steps=2, figures=figures, steps=(0, 2, 4), size=160)
    runs = []
    for name, prompts in (("plain", (PROMPT, "a dog in a bucket")), ("<i>hostile", HOSTILE)):
        record = make_run(folder / name, folder / "pictures", prompts=prompts, of_class=("a dog",), **given)
        runs.append(contents.of_folder(folder / name, record, "finished", 4, name=name))
    (folder / "plain.html").write_text(single.page(runs[0]), encoding="utf-8")
    (folder / "hostile.html").write_text(single.page(runs[1]), encoding="utf-8")
    (folder / "comparison.html").write_text(comparing.page(runs), encoding="utf-8")
    rows, columns = Axis("prompt", HOSTILE, HOSTILE), Axis("seed", tuple(range(6)), tuple("012345"))
    common = {"checkpoint": None, "lora_scale": None, "guidance": 1, "steps": 2, "scheduler": None}
    laid = cells.lay_out(rows, columns, common, folder / "grid-cells", {})
    for number, cell in enumerate(laid):
        cell.save(Image.new("RGB", (160, 160), (5 * number, 90, 90)), {})
    labelled.write(laid, rows, columns, folder / "grid.png", {"steps": "2"})
    return folder


PAGES = ("plain", "hostile", "comparison", "grid")


def others(page, path):
    """What a page has asked for beside itself and what lies in it."""
    return [each[:200] for each in page.requests if not each.startswith("data:") and each != page.address(path)]


@pytest.mark.parametrize(("width", "dark"), [*((width, False) for width in WIDTHS), (WIDTHS[0], True)])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window_and_neither_complains_nor_loads(page, made, name, width, dark):
    path = made / f"{name}.html"
    page.show(path, width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.title").startswith(("plain", "<i>hostile", "DreamBooth"))
    assert page.evaluate("[...document.images].every((each) => each.complete && each.naturalWidth > 0)")
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(int(each) for each in paper[4:-1].split(",")) < 150) == dark
    assert page.errors == [] and others(page, path) == []


@pytest.mark.parametrize(("width", "dark"), [(WIDTHS[0], True), (WIDTHS[-1], False)])
@pytest.mark.parametrize("name", PAGES)
def test_an_automated_check_finds_nothing_that_bars_anyone(page, made, name, width, dark):
    """axe-core: contrast, names, keyboard and structure; its engine is put into the page for the test alone."""
    page.show(made / f"{name}.html", width, dark=dark, bypass=True)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.evaluate(AXE.read_text(encoding="utf-8") + "; 0")
    found = page.evaluate(
        "axe.run().then((result) => result.violations.map((each) => "
        "[each.id, each.impact, each.nodes.map((node) => node.html.slice(0, 150)).slice(0, 3)]))"
    )
    assert found == []


@pytest.mark.parametrize(
    ("language", "shown", "hidden"), [("zh-CN", "zh", "en"), ("en-GB", "en", "zh"), ("fr", "en", "zh")]
)
def test_a_page_speaks_the_browsers_language(page, made, language, shown, hidden):
    page.show(made / "plain.html", language=language)
    visible = "[...document.querySelectorAll('.{}')].filter((each) => each.checkVisibility()).length"
    assert page.evaluate(visible.format(shown)) > 20 and page.evaluate(visible.format(hidden)) == 0
    assert page.evaluate("document.documentElement.lang") == shown
    other = "chinese" if shown == "en" else "english"
    page.evaluate(f"document.getElementById('{other}').click()")
    assert page.evaluate(visible.format(hidden)) > 20 and page.evaluate(visible.format(shown)) == 0


def test_the_language_can_be_chosen_without_a_script(page, made):
    page.show(made / "plain.html", script=False)
    page.call("Emulation.setScriptExecutionDisabled", {"value": False})
    visible = "[...document.querySelectorAll('.zh')].filter((each) => each.checkVisibility()).length"
    assert page.evaluate(visible) == 0
    page.evaluate("document.getElementById('chinese').checked = true")
    assert page.evaluate(visible) > 20


def test_the_slider_shows_the_pictures_of_its_step_and_hears_the_keyboard(page, made):
    page.show(made / "plain.html")
    series = "document.querySelector('.series')"
    assert page.evaluate(f"{series}.querySelector('output').textContent") == "4 ★"
    shown = f"[...{series}.querySelectorAll('.large img')].map((each) => each.alt)"
    assert page.evaluate(shown) == [f"update 4, 0: {PROMPT}", f"update 4, 1: {PROMPT}"]
    page.evaluate(f"{series}.querySelector('input').focus()")
    page.press("ArrowLeft", 37)
    assert page.evaluate(f"{series}.querySelector('output').textContent") == "2"
    assert page.evaluate(shown) == [f"update 2, 0: {PROMPT}", f"update 2, 1: {PROMPT}"]
    assert page.errors == []


def test_the_slider_of_a_comparison_has_a_column_for_each_run(page, made):
    page.show(made / "comparison.html", 1280)
    names = "[...document.querySelectorAll('.series .large figcaption')].map((each) => each.textContent).slice(0, 2)"
    assert page.evaluate(names) in (["plain · 0", "plain · 1"], ["plain · 0", "<i>hostile · 0"])


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_picture_of_a_grid_is_enlarged_and_the_way_back_is_there(page, made, script):
    page.show(made / "grid.html", 1280, script=script)
    page.call("Emulation.setScriptExecutionDisabled", {"value": False})
    width = "document.querySelector('#r0c1 img').getBoundingClientRect().width"
    small = page.evaluate(width)
    page.evaluate("location.hash = 'r0c1'")
    assert page.evaluate(width) > 2 * small
    page.evaluate("document.querySelector('#r0c1 .enlarged a').click()")
    assert page.evaluate(width) == small and page.errors == []


@pytest.mark.parametrize("width", [WIDTHS[0], WIDTHS[-1]])
def test_the_headers_of_a_grid_stay_in_sight(page, made, width):
    page.show(made / "grid.html", width, height=500)
    page.evaluate("document.querySelector('#grid').scrollTo(90, 400)")
    box = "document.querySelector('{}').getBoundingClientRect()"
    beside = f"[{box}.left - {box.format('#grid')}.left, {box}.top - {box.format('#grid')}.top]"
    (left, top), (_, of_column) = (page.evaluate(beside.format(each, each)) for each in ("tbody th", "thead th"))
    assert page.evaluate("document.querySelector('#grid').scrollTop") == 400
    assert abs(left) < 1 and abs(of_column) < 1 and top < -200


def test_without_a_script_every_step_is_in_a_table(page, made):
    page.show(made / "plain.html", script=False)
    page.call("Emulation.setScriptExecutionDisabled", {"value": False})
    count = "[...document.querySelectorAll('.pictures img')].filter((each) => each.checkVisibility()).length"
    assert page.evaluate(count) == 2 * 3 * 2
    assert page.evaluate("document.querySelector('.slider').checkVisibility()") is False


def test_a_printed_page_has_its_tables(page, made):
    page.show(made / "plain.html", dark=True)
    assert page.pdf().startswith(b"%PDF")
    page.call("Emulation.setEmulatedMedia", {"media": "print"})
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    assert page.evaluate("document.querySelector('.slider').checkVisibility()") is False
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelector('.pictures').checkVisibility()") is True


def test_the_policy_keeps_a_script_that_gets_into_a_page_from_running(page, made, tmp_path):
    """Even if a text were not escaped."""
    text = (made / "plain.html").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(text.replace("<main>", "<main><script>document.title = 'taken'</script>"))
    page.show(tmp_path / "page.html")
    assert page.evaluate("document.title") != "taken" and page.errors
