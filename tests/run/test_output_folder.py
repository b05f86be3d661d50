"""The output folder: whose it is, and that a pipeline is replaced whole."""

import pytest
from support.commands import train

from dreambooth.config.config import Config
from dreambooth.run import output_folder
from dreambooth.system.errors import BadInput


@pytest.fixture
def config(tmp_path):
    return Config.from_flat(
        pretrained_model_name_or_path="somebody/model",
        instance_data_dir="pictures",
        instance_prompt='a photo of "sks" dog',
        output_dir=str(tmp_path / "out"),
        seed=3,
    )


@pytest.mark.parametrize("there", [[], ["logs/x"], ["samples/a.png"], [".hidden"]])
def test_new_empty_and_own_folders_are_fine(config, tmp_path, there):
    output_folder.check(config)
    for name in there:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("")
    output_folder.check(config)


@pytest.mark.parametrize("there", ["thesis.tex", "model_index.json", "checkpoint-1/other.txt"])
def test_a_folder_that_holds_something_else_is_refused(config, tmp_path, there):
    (tmp_path / "out" / there).parent.mkdir(parents=True)
    (tmp_path / "out" / there).write_text("")
    with pytest.raises(BadInput, match=f"--output_dir .*{there.split('/')[0]}"):
        output_folder.check(config)


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
