"""infer.py: what it writes, and that a picture is a function of its seed, its number and the settings."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import python

import infer


@pytest.fixture
def draw(twin, tmp_path, capsys):
    """Run infer.py's main on the twin; the files that it names."""

    def run(*arguments):
        line = ["--model_path", twin, "--num_inference_steps", 3, "--output_dir", tmp_path / "pictures", *arguments]
        infer.main([str(each) for each in line])
        return capsys.readouterr().out.splitlines()

    return run


def pixels(path):
    return np.asarray(Image.open(path))


def test_each_prompt_gets_its_pictures_with_prompt_seed_and_settings_in_their_text(draw, twin):
    files = draw("--prompt", "a sks dog", "猫在雪地上", "--num_images", 2, "--seed", 7, "--negative_prompt", "blurry")
    assert [re.sub(".*/", "", file) for file in files] == [
        "a-sks-dog-0-seed7-0.png",
        "a-sks-dog-0-seed7-1.png",
        "猫在雪地上-1-seed7-0.png",
        "猫在雪地上-1-seed7-1.png",
    ]
    text = Image.open(files[3]).text
    assert text["prompt"] == "猫在雪地上" and text["picture"] == "1" and text["seed"] == "7"
    assert text["negative_prompt"] == "blurry" and text["steps"] == "3" and text["guidance_scale"] == "7.5"
    assert text["scheduler"] == "PNDMScheduler" and text["model"] == str(twin) and text["size"] == "32x32"


def test_picture_k_is_the_same_whatever_the_batch(draw, tmp_path):
    whole = [pixels(file) for file in draw("--prompt", "a", "b", "--num_images", 3, "--batch_size", 4)]
    single = [pixels(file) for file in draw("--prompt", "a", "b", "--num_images", 3, "--batch_size", 1)]
    alone = [pixels(file) for file in draw("--prompt", "b", "--num_images", 2)]
    assert all((one == other).all() for one, other in zip(whole, single))
    assert all((one == other).all() for one, other in zip(whole[3:], alone))


def test_another_seed_draws_another_picture_and_the_same_seed_the_same(draw):
    [one] = [pixels(file) for file in draw("--prompt", "a", "--seed", 0)]
    [again] = [pixels(file) for file in draw("--prompt", "a")]
    [other] = [pixels(file) for file in draw("--prompt", "a", "--seed", 1)]
    assert (one == again).all() and (one != other).any()


def test_a_picture_of_other_settings_stays(draw):
    [one] = draw("--prompt", "a", "--grid")[:1]
    before = pixels(one)
    [other] = draw("--prompt", "a", "--scheduler", "ddim")
    [third] = draw("--prompt", "a", "--scheduler", "euler")
    names = [re.sub(".*/", "", file) for file in (one, other, third)]
    assert names == ["a-0-seed0-0.png", "a-0-seed0-0~2.png", "a-0-seed0-0~3.png"]
    assert (pixels(one) == before).all()
    (before_it := Path(one).with_name("a-0-seed3-0.png")).write_text("no picture")
    assert draw("--prompt", "a", "--seed", 3)[0].endswith("a-0-seed3-0~2.png") and before_it.read_text() == "no picture"
    # the same again takes its own place
    assert draw("--prompt", "a", "--grid")[0] == one and draw("--prompt", "a", "--scheduler", "ddim") == [other]


def test_prompts_that_the_model_cannot_read_are_warned_of(draw, monkeypatch):
    said = []
    monkeypatch.setattr(infer.console, "warn", said.append)
    draw("--prompt", "a photo of a dog", "very " * 90, "一只狗", "--num_inference_steps", 1)
    assert len(said) == 2 and "too long for the tokenizer; this part is lost" in said[0]
    assert said[1].startswith('"一只狗" has Chinese characters that are not in the model\'s vocabulary')


def test_a_size_of_ones_own(draw):
    [file] = draw("--prompt", "a", "--height", 48, "--width", 64)
    assert Image.open(file).size == (64, 48)


def test_output_names_the_one_file_and_a_grid_holds_all(draw, tmp_path):
    assert draw("--prompt", "a", "--output", tmp_path / "new/one.png") == [str(tmp_path / "new/one.png")]
    [sheet] = draw("--prompt", "a", "b", "--num_images", 3, "--output", tmp_path / "sheet.png", "--grid")
    assert Image.open(sheet).size == (96, 64)
    files = draw("--prompt", "a", "b", "--num_images", 3, "--grid")
    assert len(files) == 7 and files[-1].endswith("pictures/grid.png")
    sheet = pixels(files[-1])
    assert (sheet[32:, 64:] == pixels(files[5])).all()


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmsolver++", "euler", "euler_a", "lms", "pndm"])
def test_every_scheduler_of_the_list_draws(draw, name):
    [file] = draw("--prompt", "a", "--scheduler", name, "--num_inference_steps", 5)
    assert pixels(file).std() > 0 and name[:3] in Image.open(file).text["scheduler"].lower()


def test_the_command_prints_the_file_and_nothing_else(twin, tmp_path):
    line = ["--model_path", twin, "--prompt", "a", "--num_inference_steps", 2, "--output", tmp_path / "a.png"]
    done = python("infer.py", *line)
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'a.png'}\n"
    shown = [part for part in done.stderr.replace("\r", "\n").splitlines() if part.strip()]
    assert all(part.startswith("Drawing") for part in shown) and "1/1" in shown[-1]


def test_tiles_make_the_same_picture_but_for_their_seams(draw, tmp_path):
    [whole] = draw("--prompt", "a", "--height", 96, "--width", 96)
    [tiled] = draw("--prompt", "a", "--height", 96, "--width", 96, "--vae_tiling", "--output_dir", tmp_path / "tiled")
    difference = abs(pixels(whole).astype(int) - pixels(tiled).astype(int))
    assert difference.max() > 0 and np.median(difference) <= 4


def test_half_precision_on_the_cpu_draws_in_float32(draw, tmp_path):
    [plain] = draw("--prompt", "a")
    [half] = draw("--prompt", "a", "--mixed_precision", "bf16", "--output_dir", tmp_path / "half")
    assert (pixels(plain) == pixels(half)).all()
