"""dreambooth.report: the page of a run in any state, of several runs, and of what is no run."""

import json
import os

import pytest
from support.commands import train
from support.finished_runs import make_run

from dreambooth import report
from dreambooth.files import atomic, records
from dreambooth.run.report import progress
from dreambooth.system.errors import BadInput


def text_of(path):
    return path.read_text(encoding="utf-8")


def refused(*line):
    with pytest.raises(BadInput) as error:
        report.main([str(each) for each in line])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def runs(twin, tmp_path_factory):
    """Two runs of four updates that validate each two, one of them with class pictures."""
    from support.commands import command_line
    from support.pictures import draw_pictures

    folder = tmp_path_factory.mktemp("runs")
    draw_pictures(folder / "dog", 3)
    drawn = dict(validation_prompt=["a sks dog"], num_validation_images=1, validation_steps=2, save_steps=2)
    classes = dict(with_prior_preservation=True, class_prompt="a dog", class_data_dir=folder / "classes",
                   num_class_images=2)  # fmt: skip
    common = dict(max_train_steps=4, no_last_checkpoint=None, **drawn)
    train(command_line(twin, folder / "dog", folder / "plain", **common))
    train(command_line(twin, folder / "dog", folder / "with class", **common, **classes, learning_rate=1e-4))
    return folder


def test_a_run_has_its_page(runs):
    page = text_of(runs / "with class/report.html")
    for each in ("Finished: 4 of 4 updates.", "Base model", "a sks dog", "a dog", "dreambooth.export", "--grid"):
        assert each in page
    assert page.count('<tr><th scope="row"><bdi>0</bdi></th>') == 1


def test_the_command_makes_the_same_page_once_more(runs, capsys):
    path = runs / "with class/report.html"
    before = text_of(path)
    path.unlink()
    report.main(["--model_path", str(runs / "with class")])
    assert capsys.readouterr().out == f"{path}\n"
    assert text_of(path) == before


def test_runs_are_compared(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report.main([str(runs / "plain"), str(runs / "with class")])
    assert capsys.readouterr().out == "comparison.html\n"
    page = text_of(tmp_path / "comparison.html")
    assert "Comparison of 2 runs" in page and "plain" in page and "with class" in page and "0.0001" in page
    report.main([str(runs / "plain"), str(runs / "with class"), "--output", str(tmp_path / "other.html")])
    assert text_of(tmp_path / "other.html") == page


def test_a_run_that_was_stopped_says_so(runs, tmp_path):
    folder = runs / "plain"
    record = (folder / records.RESULT).rename(tmp_path / records.RESULT)
    try:
        report.main(["--model_path", str(folder), "--output", str(tmp_path / "page.html")])
        page = text_of(tmp_path / "page.html")
        assert "Stopped after 4 of 4 updates." in page and "--resume_from_checkpoint latest" in page
        descriptor = os.open(folder, os.O_RDONLY)
        atomic.lock(descriptor)
        report.main(["--model_path", str(folder), "--output", str(tmp_path / "page.html")])
        os.close(descriptor)
        assert "Training: 4 of 4 updates." in text_of(tmp_path / "page.html")
    finally:
        record.rename(folder / records.RESULT)


def test_a_resumed_run_has_its_curves_from_the_beginning(flags, tmp_path):
    drawn = dict(validation_prompt=["a sks dog"], num_validation_images=1, validation_steps=1)
    train(flags(max_train_steps=2, save_steps=1, **drawn))
    with (tmp_path / "out" / progress.FILE).open("a") as file:
        file.write('{"step": 3, "training": {"loss": 99}}\n{"step": 4, "trai')
    train(flags(max_train_steps=4, save_steps=1, resume_from_checkpoint="latest", **drawn))
    steps = [(row.step, row.group) for row in progress.read(tmp_path / "out")]
    assert sorted({step for step, group in steps if group == "training"}) == [1, 2, 3, 4]
    assert sorted(step for step, group in steps if group == "validation") == [1, 2, 3, 4]
    assert not any(row.figures.get("loss") == 99 for row in progress.read(tmp_path / "out"))


def test_what_is_no_run_is_refused(tmp_path):
    assert "there is no such folder" in refused("--model_path", tmp_path / "missing")
    assert "neither a result nor a checkpoint" in refused("--model_path", tmp_path)
    make_run(tmp_path / "out", tmp_path / "pictures")
    assert "the same folder" in refused(tmp_path / "out", tmp_path / "out")
    assert "at most 8" in refused(*(tmp_path / str(number) for number in range(9)))
    assert "must end in .html" in refused("--model_path", tmp_path / "out", "--output", tmp_path / "page.txt")
    (tmp_path / "file").write_text("")
    assert "can't be written" in refused("--model_path", tmp_path / "out", "--output", tmp_path / "file/page.html")
    assert "--model_path is required" in refused()


def test_a_checkpoint_is_refused_with_its_run(runs):
    assert f"give the folder of its run, {runs / 'plain'}" in refused("--model_path", runs / "plain/checkpoint-2")


@pytest.mark.parametrize("name", ["flags", "concepts", "steps", "versions", "machine", "sizes", "base_index"])
@pytest.mark.parametrize("value", [None, "text", "\ud800", [], [1], {}, 7, float("inf")], ids=repr)
def test_a_record_that_somebody_edited_is_shown_or_refused(tmp_path, name, value):
    record = make_run(tmp_path / "out", tmp_path / "pictures")
    (tmp_path / "out" / records.RESULT).write_text(json.dumps({**record, name: value}))
    try:
        report.main(["--model_path", str(tmp_path / "out")])
    except BadInput as error:
        assert "its record can't be read" in str(error) and "\n" not in str(error)
