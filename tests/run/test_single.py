"""The page of one run: what stands on it, and that no fault of it ends a run."""

import re

import pytest
from support.finished_runs import HOSTILE, make_run

from dreambooth.run.report import contents, single
from dreambooth.run.report.single import Report


def made(folder, tmp_path, state="finished", **settings):
    record = make_run(folder, tmp_path / "pictures", **settings)
    return contents.of_folder(folder, record, state, record["steps"])


def test_a_page_has_all_of_a_run(tmp_path):
    figures = {2: {"score": 0.5, "CLIP-I": 0.7}, 4: {"score": 0.25, "CLIP-I": 0.6}}
    given = dict(with_prior_preservation=True, class_prompt="a dog", class_data_dir=str(tmp_path / "classes"))
    given |= dict(keep_best=True, validation_steps=2)
    run = made(tmp_path / "out", tmp_path, figures=figures, of_class=("a dog",), **given)
    page = single.page(run)
    for text in (
        *("Finished: 4 of 4 updates.", "The best validation is that after update 2", "a photo of sks dog on the beach"),
        *("0.5", "learning rate", "CLIP-I", "more is better", "a processor (AVX2)", "--instance_prompt"),
        *("infer.py --model_path", "dreambooth.export", "The class, before and after", "已完成"),
    ):
        assert text in page, text
    assert page.count("<img ") >= 4 + 2 + 3 * 2 and page.count("<polyline") >= 3
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', page)) == page.count("<img ")


@pytest.mark.parametrize("prompt", HOSTILE, ids=range(len(HOSTILE)))
def test_a_prompt_is_text_wherever_it_stands(tmp_path, prompt):
    page = single.page(made(tmp_path / "out", tmp_path, prompts=(prompt,), instance_prompt="sks"))
    assert page.count("<script>") == 1 and 'onerror="' not in page and "<img src=x" not in page
    assert "49" not in re.findall(r"<bdi>(.*?)</bdi>", page)


def test_names_of_files_and_folders_are_text(tmp_path):
    folder = tmp_path / '<b>"out" & about'
    pictures = tmp_path / "<i>pictures"
    record = make_run(folder, pictures)
    for number, path in enumerate(sorted(pictures.iterdir())):
        path.rename(path.with_name(f'<img src=x onerror="{number}">.png'))
    page = single.page(contents.of_folder(folder, record, "finished", 4))
    assert "<b>" not in page and "<i>" not in page and "<img src=x" not in page


def test_a_run_without_validations_has_curves_and_no_drawings(tmp_path):
    record = make_run(tmp_path / "out", tmp_path / "pictures", prompts=(), validation_prompt=None)
    page = single.page(contents.of_folder(tmp_path / "out", record, "finished", 4))
    assert "<polyline" in page and 'class="series"' not in page


def test_the_page_is_small(tmp_path):
    """400 updates, 8 validations of 2 prompts with 4 pictures of 512 x 512: below 15 MB."""
    steps = tuple(range(50, 401, 50))
    run = made(tmp_path / "out", tmp_path, steps=steps, prompts=("a", "b"), count=4, size=512)
    assert len(single.page(run).encode()) < 15e6


def test_a_run_writes_its_page_over_and_over(tmp_path):
    record = make_run(tmp_path / "out", tmp_path / "pictures")
    report = Report(tmp_path / "out", record, ())
    report.write(2)
    assert "Training: 2 of 4 updates." in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    report.write(3, "stopped")
    assert "Stopped after 3 of 4 updates." in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    report.write(4, "finished", {**record, "saved_step": 2})
    assert "after update 2 (★)" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_other_processes_write_none(tmp_path):
    record = make_run(tmp_path / "out", tmp_path / "pictures")
    Report(tmp_path / "out", record, (), enabled=False).write(4)
    assert not (tmp_path / "out/report.html").exists()


def test_a_page_that_can_not_be_written_is_a_warning(tmp_path, capsys):
    record = make_run(tmp_path / "out", tmp_path / "pictures")
    (tmp_path / "out/report.html").mkdir()
    (tmp_path / "out/report.html/file").write_text("")
    Report(tmp_path / "out", record, ()).write(4)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "report.html" in line and "the run goes on" in line
