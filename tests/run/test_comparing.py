"""The page of several runs: names that tell them apart, what differs, pictures of a prompt together."""

from pathlib import Path

from support.finished_runs import make_run

from dreambooth.run.report import comparing, contents


def runs(tmp_path, several):
    found = []
    for name, settings in several.items():
        record = make_run(tmp_path / name, tmp_path / "pictures", **settings)
        found.append(contents.of_folder(tmp_path / name, record, "finished", record["steps"], name=name))
    return found


def test_names_are_as_short_as_tells_runs_apart():
    assert comparing.names([Path("/a/one"), Path("/a/two")]) == ["one", "two"]
    assert comparing.names([Path("/a/x/out"), Path("/a/y/out")]) == ["x/out", "y/out"]
    assert comparing.names([Path("/out"), Path("/a/out")]) == ["/out", "a/out"]


def test_the_page_has_what_differs_and_the_figures_of_each(tmp_path):
    figures = {2: {"score": 0.5}, 4: {"score": 0.75}}
    several = runs(tmp_path, {"slow": dict(learning_rate=1e-6, figures=figures), "fast": dict(learning_rate=1e-3)})
    page = comparing.page(several)
    assert "Comparison of 2 runs" in page and "1e-06" in page and "0.001" in page and "0.75" in page
    assert "instance_data_dir" not in page and "output_dir" not in page
    chart = page[page.index("<polyline") :]
    assert 'class="curve c0"' in chart and 'class="curve c1"' in chart


def test_runs_of_the_same_settings_are_said_to_be_so(tmp_path):
    assert "The runs have the same settings." in comparing.page(runs(tmp_path, {"a": {}, "b": {}}))


def test_pictures_of_a_prompt_stand_together_over_all_steps(tmp_path):
    several = runs(tmp_path, {
        "a": dict(steps=(2, 4), prompts=("both", "one alone")),
        "b": dict(steps=(4, 6), prompts=("both",), count=1),
    })  # fmt: skip
    [series] = comparing.together(several)
    assert (series.prompt, series.steps) == ("both", (2, 4, 6))
    assert series.labels == ("a · 0", "b · 0", "a · 1")
    there = [[copy is not None for copy in row] for row in series.rows]
    assert there == [[True, True, False], [False, True, True], [True, True, False]]


def test_without_a_common_prompt_those_of_each_run_are_shown(tmp_path):
    several = runs(tmp_path, {"a": dict(prompts=("first",)), "b": dict(prompts=("second",))})
    assert [each.prompt for each in comparing.together(several)] == ["first", "second"]


def test_a_name_with_markup_is_text(tmp_path):
    page = comparing.page(runs(tmp_path, {"<b>a": {}, '"b" & c': {}}))
    assert "<b>" not in page and "&lt;b&gt;a" in page
