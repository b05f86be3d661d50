"""The output folder: whose it is, that a pipeline is replaced whole, and the model card."""

import re

import pytest
from support.commands import train
from support.settings import changed

from dreambooth.config.config import Config
from dreambooth.run import model_card, output_folder
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


def test_the_card_names_model_prompt_steps_and_the_command(config):
    card = model_card.make_card(
        config,
        steps=400,
        processes=2,
        draw_command="python infer.py --model_path out",
        pipeline="StableDiffusionPipeline",
    )
    for text in ("somebody/model", 'a photo of "sks" dog', "400 updates, batch 8", "512 x 512", "| seed | 3 |"):
        assert text in card
    assert "python infer.py --model_path out" in card and "from_pretrained(" in card and "Samples" not in card
    header = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1]
    assert 'base_model: "somebody/model"' in header and 'instance_prompt: "a photo of \\"sks\\" dog"' in header


def test_the_card_shows_the_last_samples(config, tmp_path):
    config = changed(config, validation_prompt=("sks dog at night",), num_validation_images=1)
    (tmp_path / "out/samples").mkdir(parents=True)
    for step in (200, 400):
        (tmp_path / f"out/samples/step-{step}-0-0.png").write_bytes(b"")
    card = model_card.make_card(config, 400, 1, "", "UniDiffuserPipeline")
    assert "(samples/step-400-0-0.png)" in card and "step-200" not in card and "sks dog at night" in card


def test_no_secret_gets_into_the_arguments(flags, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    train(flags())
    for path in (tmp_path / "out").rglob("*.json"):
        assert "hf_secret" not in path.read_text()
