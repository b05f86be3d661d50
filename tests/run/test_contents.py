"""What a page has of a run's folder: drawings over the steps, training pictures, classes before and after."""

import pytest
from PIL import Image
from support.finished_runs import PROMPT, make_run
from support.pictures import draw_pictures, write_left_masks

from dreambooth.run.report import contents, progress


def read(folder, record, state="finished", step=None, **settings):
    return contents.of_folder(folder, record, state, record["steps"] if step is None else step, **settings)


def test_drawings_are_in_rows_by_seed_and_columns_by_step(tmp_path):
    prompts = ("a dog", "two dogs")
    record = make_run(tmp_path / "out", tmp_path / "pictures", steps=(2, 4, 6), prompts=prompts, count=2)
    run = read(tmp_path / "out", record)
    assert [(each.prompt, each.steps, len(each.rows), each.labels) for each in run.series] == [
        (prompt, (2, 4, 6), 2, ("0", "1")) for prompt in prompts
    ]
    pictures = [copy for each in run.series for row in each.rows for copy in row]
    assert all(copy.width == 32 for copy in pictures)
    assert [copy.address for copy in run.series[0].at(4)] == [row[1].address for row in run.series[0].rows]
    assert [run.series[0].chosen_step(step) for step in (None, 4, 5)] == [6, 4, 6]
    assert run.name == "out" and run.planned == 6


def test_a_picture_that_is_missing_or_damaged_leaves_its_place_empty(tmp_path):
    record = make_run(tmp_path / "out", tmp_path / "pictures")
    (tmp_path / "out/samples/step-2-0-0.png").unlink()
    (tmp_path / "out/samples/step-4-0-1.png").write_bytes(b"no picture")
    [series] = read(tmp_path / "out", record).series
    assert [[copy is not None for copy in row] for row in series.rows] == [[False, True], [True, False]]
    assert len(series.at(4)) == 1 and series.prompt == PROMPT + " on the beach"


def test_pictures_of_a_run_before_and_of_other_names_are_left_out(tmp_path):
    record = make_run(tmp_path / "out", tmp_path / "pictures", steps=(2, 4, 9))
    make_run(tmp_path / "out", tmp_path / "pictures", steps=(3, 6))
    Image.new("RGB", (8, 8)).save(tmp_path / "out/samples/my-step-6-0-0.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "out/samples/step-6-0.png")
    run = read(tmp_path / "out", record, step=6)
    assert [each.steps for each in run.series] == [(3, 6)]


def test_a_run_of_an_earlier_version_has_all_its_pictures_and_the_figures_of_its_record(tmp_path):
    record = make_run(tmp_path / "out", tmp_path / "pictures")
    (tmp_path / "out" / progress.FILE).unlink()
    run = read(tmp_path / "out", {**record, "validations": [{"step": 2, "score": 0.5, "DIV": None}]})
    assert run.series[0].steps == (2, 4) and run.validations == {2: {"score": 0.5}}
    assert run.figures("training", "loss") == [] and run.figures("validation", "score") == [(2, 0.5)]


def test_of_many_steps_a_page_shows_some_over_all_of_the_run(tmp_path):
    steps = tuple(range(1, 201))
    record = make_run(tmp_path / "out", tmp_path / "pictures", steps=steps, count=4, size=8)
    run = read(tmp_path / "out", {**record, "saved_step": 123})
    [series] = run.series
    assert len(series.steps) * 4 <= 244 and {1, 123, 200} <= {*series.steps}
    assert run.steps_left_out == 200 - len(series.steps)
    gaps = [after - before for before, after in zip(series.steps, series.steps[1:])]
    assert max(gaps) <= 4


def test_the_copies_are_smaller_where_there_are_many(tmp_path):
    few = make_run(tmp_path / "few", tmp_path / "pictures", steps=(1,), size=600)
    many = make_run(tmp_path / "many", tmp_path / "pictures", steps=tuple(range(1, 41)), size=600)
    widths = [read(tmp_path / name, record).series[0].rows[0][0].width for name, record in
              (("few", few), ("many", many))]  # fmt: skip
    assert widths == [512, 384]
    assert read(tmp_path / "many", many, runs=8).series[0].rows[0][0].width == 256


def test_training_pictures_are_shown_with_caption_crop_and_mask(tmp_path):
    draw_pictures(tmp_path / "pictures", 2, size=(60, 40))
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    (tmp_path / "pictures" / names[0]).with_suffix(".txt").write_text("sks dog asleep")
    (tmp_path / "pictures" / names[1]).with_suffix(".txt").write_text("sks dog awake")
    write_left_masks(tmp_path / "pictures", tmp_path / "masks", (60, 40))
    given = dict(captions="txt", center_crop=True, mask_dir=str(tmp_path / "masks"))
    record = make_run(tmp_path / "out", tmp_path / "pictures", **given)
    [subject] = read(tmp_path / "out", record).subjects
    assert subject.prompt == PROMPT and subject.left_out == 0 and len(subject.beside) == 2
    assert [(row.name, row.caption, row.has_mask) for row in subject.rows] == [
        (names[0], "sks dog asleep", True),
        (names[1], "sks dog awake", True),
    ]
    assert all("cut off" in row.fitted and len(row.pictures) == 2 for row in subject.rows)


def test_of_many_training_pictures_a_page_shows_the_first(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(35):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / f"pictures/{number}.png")
    record = make_run(tmp_path / "out", tmp_path / "pictures")
    [subject] = read(tmp_path / "out", record).subjects
    assert len(subject.rows) == 30 and subject.left_out == 5


def test_training_pictures_that_are_gone_are_a_line_and_no_error(tmp_path):
    record = make_run(tmp_path / "out", tmp_path / "pictures")
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    run = read(tmp_path / "out", record)
    assert str(tmp_path / "pictures") in run.problem
    assert [subject.prompt for subject in run.subjects] == [PROMPT] and not run.subjects[0].rows


def test_flags_of_another_version_are_a_line_and_no_error(tmp_path):
    record = make_run(tmp_path / "out", tmp_path / "pictures")
    run = read(tmp_path / "out", {**record, "flags": {**record["flags"], "unheard_of": 1}})
    assert "unheard_of" in run.problem and run.series


def test_a_class_is_shown_before_and_after(tmp_path):
    given = dict(with_prior_preservation=True, class_prompt="a dog", class_data_dir=str(tmp_path / "classes"))
    record = make_run(tmp_path / "out", tmp_path / "pictures", of_class=("a dog",), **given)
    draw_pictures(tmp_path / "classes/of-a-size", 2)
    names = sorted(path.name for path in (tmp_path / "classes/of-a-size").iterdir())
    record["concepts"][0]["class_pictures"] = [{"name": name, "sha256": "0"} for name in names]
    [found] = read(tmp_path / "out", record).classes
    assert (found.prompt, len(found.before), len(found.after), found.step) == ("a dog", 2, 2, 4)
    red = {"steps": (0, 4)}  # the base was drawn too
    record = make_run(tmp_path / "two", tmp_path / "pictures", of_class=("a dog",), **given, **red)
    [found] = read(tmp_path / "two", record).classes
    assert len(found.before) == 2 and found.before[0].address != found.after[0].address


@pytest.mark.parametrize("keeps", [True, False])
def test_the_best_step_is_that_of_the_record_or_of_the_best_score_so_far(tmp_path, keeps):
    figures = {2: {"score": 0.5}, 4: {"score": 0.7}, 6: {"score": 0.7}}
    given = dict(keep_best=keeps, validation_steps=2) if keeps else {}
    record = make_run(tmp_path / "out", tmp_path / "pictures", steps=(2, 4, 6), figures=figures, **given)
    assert read(tmp_path / "out", record, "running").best_step == (4 if keeps else None)
    assert read(tmp_path / "out", {**record, "saved_step": 6}).best_step == 6


def test_a_run_that_ended_before_its_plan_has_both_numbers(tmp_path):
    record = make_run(tmp_path / "out", tmp_path / "pictures", max_train_steps=100)
    run = read(tmp_path / "out", record)
    assert (run.step, run.planned) == (4, 100)
