"""The axes of a grid: what a command line may say, and the one line that refuses all else."""

import pytest
from support.commands import command_line, train
from support.pictures import draw_pictures

from dreambooth.run.drawings import axes
from dreambooth.system.errors import BadInput


def read(*given, prompts=("a dog",), model=".", has_lora=True):
    return axes.read(given, prompts, str(model), has_lora)


@pytest.fixture(scope="module")
def run(twin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    draw_pictures(folder / "dog", 2)
    train(command_line(twin, folder / "dog", folder / "out", max_train_steps=12, save_steps=4, lora_rank=1))
    return folder / "out"


def test_values_of_each_kind_are_read():
    rows, columns = read("seed=0-2,7", "guidance=1,7.5")
    assert (rows.name, rows.values, rows.labels) == ("seed", (0, 1, 2, 7), ("0", "1", "2", "7"))
    assert (columns.name, columns.values, columns.labels) == ("guidance", (1.0, 7.5), ("1", "7.5"))
    assert read("steps=10,20", "scheduler=ddim,dpmsolver++")[1].values == ("ddim", "dpmsolver++")
    assert read("lora_scale=-0.5,0,1.2", "seed=1")[0].values == (-0.5, 0.0, 1.2)


def test_the_rows_of_one_axis_are_the_prompts():
    rows, columns = read("seed=0,1", prompts=("a", "b"))
    assert (rows.name, rows.values, columns.values) == ("prompt", ("a", "b"), (0, 1))
    rows, columns = read("prompt", prompts=("a", "b"))
    assert rows.values == ("a", "b") and columns.values == (None,)
    assert read("guidance=1,2", "prompt", prompts=("a", "b"))[1].values == ("a", "b")


def test_checkpoints_are_found_by_name_and_number_in_the_order_of_their_steps(run):
    rows, _ = read("checkpoint=all", "seed=0", model=run)
    assert rows.labels == ("4", "8", "12", "result")
    assert rows.values == (*(str(run / f"checkpoint-{step}") for step in (4, 8, 12)), str(run))
    rows, _ = read("checkpoint=result,checkpoint-8,4", "seed=0", model=run)
    assert rows.labels == ("result", "8", "4")
    for twice in ("8,checkpoint-8", "all,4", "result,last"):
        with pytest.raises(BadInput, match="a value stands there twice"):
            read(f"checkpoint={twice}", model=run)


def test_a_result_is_named_as_the_command_line_has_it(run, monkeypatch):
    monkeypatch.chdir(run)  # so that another grid of the same --model_path takes its pictures over
    for values in ("result", "all"):
        assert read(f"checkpoint={values}", model="./")[1].values[-1] == "./"


def test_a_run_without_a_result_has_its_checkpoints(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/checkpoint-4").symlink_to(run / "checkpoint-4")
    assert read("checkpoint=all", "seed=0", model=tmp_path / "out")[0].labels == ("4",)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["colour=red"], "no axis of that name; there are prompt, checkpoint, seed"),
        (["seed"], "an axis needs values, as seed=0-3"),
        (["seed=1,,2"], "an axis needs values"),
        (["seed=1", "seed=2"], "seed stands there twice"),
        (["seed=1", "steps=2", "guidance=3"], "are 3 axes; give one or two"),
        (["seed=1,1"], "a value stands there twice"),
        (["seed=1", "steps=07,7"], "a value stands there twice"),
        (["seed=-1"], "no whole number of at least 0"),
        (["seed=0-5000"], "no range of at most 100 seeds"),
        (["seed=5-2"], "no range"),
        (["seed=1.5"], "no whole number"),
        (["steps=0"], "no whole number of at least 1"),
        (["steps=9" + "9" * 30], "no whole number"),
        (["guidance=-1"], "no number of at least 0"),
        (["guidance=nan"], "no number"),
        (["guidance=high"], "no number"),
        (["lora_scale=inf"], "no number"),
        (["scheduler=magic"], "no scheduler magic; there are ddim"),
        (["prompt=a"], "write prompt alone"),
        (["seed=0-99", "guidance=1,2,3,4,5"], "500 pictures are too many"),
        (["checkpoint=missing"], "has no whole missing; it has nothing that draws"),
        (["checkpoint=all"], "has no checkpoint and no result"),
        (["checkpoint=result"], "has no result yet"),
    ],
)
def test_all_else_is_refused_in_one_line(given, reason, tmp_path):
    with pytest.raises(BadInput) as error:
        read(*given, model=tmp_path)
    assert reason in str(error.value) and "\n" not in str(error.value) and str(error.value).startswith("--grid")


def test_what_does_not_fit_the_rest_of_the_command_is_refused(tmp_path):
    with pytest.raises(BadInput, match="it needs --lora"):
        read("lora_scale=1,2", has_lora=False)
    with pytest.raises(BadInput, match="with 2 prompts, one of the axes must be prompt"):
        read("seed=1", "steps=2", prompts=("a", "b"))
    with pytest.raises(BadInput, match="a prompt stands there twice"):
        read("seed=1", prompts=("a", "a"))
    with pytest.raises(BadInput, match="is no folder of a run"):
        read("checkpoint=all", model=tmp_path / "missing")
