"""The commands of the README, as they are written, on a tiny model in place of Stable Diffusion."""

import importlib
import re
import shlex
import shutil

import pytest
from PIL import Image
from support.families import load_pipeline
from support.pictures import draw_pictures
from test_readme import PAGES, READMES, commands

# what takes an hour at full size
SHORTER = {
    r"--max_train_steps \d+": "--max_train_steps 2",
    "--save_steps 200": "--save_steps 1 --max_train_steps 2",
    "--resolution 512": "--resolution 32",
    "--lora_rank 4": "--lora_rank 4 --resolution 32",
    "--with_prior_preservation": "--with_prior_preservation --num_class_images 2 --prior_inference_steps 2",
    "checkpoint-200": "checkpoint-1",
    "infer.py": "infer.py --num_inference_steps 3",
}
MODULES = {"train_dreambooth.py": "train_dreambooth", "infer.py": "infer"}


@pytest.fixture
def folder(twin, tmp_path, monkeypatch):
    """A folder with a model of the README's name, and the user's pictures."""
    shutil.copytree(twin, tmp_path / "CompVis/stable-diffusion-v1-4")
    draw_pictures(tmp_path / "my_dog", 4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# in both languages they are the same, as a rule
DISTINCT = {tuple(commands(PAGES[name])): name for name in reversed(READMES.values())}


@pytest.mark.parametrize("page", DISTINCT.values())
def test_the_commands_of_the_readme_do_what_it_says(page, folder, capsys):
    done = []
    for line in commands(PAGES[page]):
        for long, short in SHORTER.items():
            line = re.sub(long, short, line)
        python, *argv = shlex.split(line)
        if python != "python":
            continue  # the scripts have tests of their own
        module, *argv = argv[1:] if argv[0] == "-m" else argv
        importlib.import_module(MODULES.get(module, module)).main(argv)
        done.append(module)
    assert done.count("train_dreambooth.py") == 2 and done.count("infer.py") == 4 and "dreambooth.export" in done
    assert load_pipeline(folder / "dream_outputs")
    assert (folder / "dream_outputs/samples/step-2-0-0.png").is_file() and (
        folder / "dream_outputs/report.html"
    ).is_file()
    assert (folder / "dream_lora/paddle_lora_weights.safetensors").is_file() and (
        folder / "sks_dog.safetensors"
    ).is_file()
    with Image.open(folder / "outputs/grid.png") as grid:
        assert "sks dog at night" in grid.info["prompt"]
