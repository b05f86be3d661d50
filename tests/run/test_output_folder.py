"""The output folder: whose it is, and that a pipeline is replaced whole."""

import pytest
from support.commands import train

from dreambooth.run import output_folder
from dreambooth.system.errors import BadInput


def check(folder, **others):
    """Check a folder with logs in it, and other folders by flag."""
    others = {f"--{flag}": path for flag, path in {"logging_dir": folder / "logs", **others}.items()}
    output_folder.check(folder, others, saves_pipeline=True)


@pytest.mark.parametrize("there", [[], ["logs/x"], ["samples/a.png"], [".hidden"]])
def test_new_empty_and_own_folders_are_fine(tmp_path, there):
    check(tmp_path / "out")
    for name in there:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("")
    check(tmp_path / "out")


@pytest.mark.parametrize("there", ["thesis.tex", "model_index.json", "checkpoint-1/other.txt"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path, there):
    (tmp_path / "out" / there).parent.mkdir(parents=True)
    (tmp_path / "out" / there).write_text("")
    with pytest.raises(BadInput, match=f"--output_dir .*{there.split('/')[0]}"):
        check(tmp_path / "out")


def test_class_pictures_inside_are_the_runs_own_and_outside_must_have_a_place(tmp_path):
    (tmp_path / "out/classes/dogs").mkdir(parents=True)
    check(tmp_path / "out", class_data_dir=tmp_path / "out/classes/dogs")
    with pytest.raises(BadInput, match="--output_dir .*something else than an earlier run \\(classes\\)"):
        check(tmp_path / "out", class_data_dir=tmp_path / "dogs")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="--class_data_dir .*/file/dogs: it is no folder that can be written"):
        check(tmp_path / "new", class_data_dir=tmp_path / "file/dogs")


def test_a_second_run_replaces_the_pipeline_and_nothing_else(flags, tmp_path):
    out = tmp_path / "out"
    train(flags())
    (out / "notes.txt").write_text("mine")
    train(flags(save_format="safetensors"))
    assert (out / "notes.txt").read_text() == "mine"
    assert {path.name for path in (out / "unet").iterdir()} == {"config.json", "diffusion_paddle_model.safetensors"}
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_no_secret_gets_into_the_arguments(flags, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    train(flags())
    for path in (tmp_path / "out").rglob("*.json"):
        assert "hf_secret" not in path.read_text()
