"""infer.py: what it writes, and that a picture is a function of its seed, its number and the settings."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import python
from support.families import load_family
from support.twins import build_control

import infer
from dreambooth.system.errors import BadInput


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


@pytest.fixture
def picture(tmp_path):
    """A picture's file, lying and 48 x 32."""
    levels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(levels).resize((48, 32), Image.Resampling.BICUBIC).save(tmp_path / "room.png")
    return tmp_path / "room.png"


def test_a_picture_to_begin_from_gives_shape_and_text(draw, picture):
    [plain] = draw("--prompt", "a", "--width", 40, "--height", 24)
    [one] = draw("--prompt", "a", "--image", picture, "--num_inference_steps", 5)
    assert pixels(one).shape == (24, 40, 3)  # 48 x 32 at the area of 32 x 32, in steps of 8: 39.2 x 26.1
    text = Image.open(one).text
    assert text["image"] == str(picture) and text["strength"] == "0.8" and text["mask"] == ""
    [other] = draw("--prompt", "a", "--image", picture, "--strength", 1)
    assert (pixels(other) == pixels(plain)).all()  # nothing of the picture is left
    assert pixels(draw("--prompt", "a", "--image", picture, "--height", 32)[0]).shape == (32, 48, 3)


def test_a_region_is_painted_and_the_rest_stays_as_it_is(draw, tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(levels).save(tmp_path / "room.png")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 32, 16))
    mask.save(tmp_path / "mask.png")
    files = draw("--prompt", "a", "b", "--image", tmp_path / "room.png", "--mask", tmp_path / "mask.png", "--grid")
    for file in files[:2]:
        assert (pixels(file)[16:] == levels[16:]).all() and (pixels(file)[:16] != levels[:16]).any()
        assert Image.open(file).text["strength"] == "1.0"
    assert pixels(files[2]).shape == (64, 32, 3)


def test_poses_share_a_sheet_each_with_its_pictures(draw, twin, tmp_path, picture):
    control = build_control(tmp_path / "control", load_family(twin))
    Image.new("RGB", (20, 20), "grey").save(tmp_path / "still.png")
    poses = [tmp_path / "still.png", picture]
    with pytest.raises(BadInput, match="still.png and .*room.png have different shapes; give --height and --width"):
        draw("--prompt", "a", "--controlnet", control, "--control_image", *poses)
    files = draw(
        *("--prompt", "a dog", "a cat", "--controlnet", control, "--control_image", *poses),
        *("--control_scale", 0.5, "--num_images", 2, "--grid", "--height", 32, "--width", 32),
    )
    assert [re.sub(".*/", "", file) for file in files] == [
        *("a-dog-still-0-seed0-0.png", "a-dog-still-0-seed0-1.png", "a-cat-still-1-seed0-0.png"),
        *("a-cat-still-1-seed0-1.png", "a-dog-room-0-seed0-0.png", "a-dog-room-0-seed0-1.png"),
        *("a-cat-room-1-seed0-0.png", "a-cat-room-1-seed0-1.png", "grid.png"),
    ]
    sheet = pixels(files[-1])
    assert sheet.shape == (2 * 32, 5 * 32, 3) and (sheet[:32, :32] == 128).all()
    assert (sheet[32:, 32:64] == pixels(files[4])).all() and (pixels(files[0]) != pixels(files[4])).any()
    text = Image.open(files[4]).text
    assert text["control_image"] == str(picture) and text["control_scale"] == "0.5" and text["draw_edges"] == "False"
    [drawn] = draw("--prompt", "a dog", "--controlnet", control, "--control_image", picture, "--draw_edges")
    edged = draw("--prompt", "a dog", "--controlnet", control, "--control_image", picture, "--draw_edges", "--grid")
    assert set(np.unique(pixels(edged[-1])[:, :32])) == {0, 255}  # drawn at the size of the picture, and not scaled
    assert Image.open(drawn).text["draw_edges"] == "True" and drawn.endswith("a-dog-room-0-seed0-0~2.png")


def test_a_picture_can_be_led_by_a_pose_too(draw, twin, tmp_path, picture):
    control = build_control(tmp_path / "control", load_family(twin))
    plain = draw("--prompt", "a", "--image", picture, "--strength", 0.7)
    led = draw("--prompt", "a", "--image", picture, "--strength", 0.7, "--controlnet", control,
               "--control_image", picture)  # fmt: skip
    assert (pixels(plain[0]) != pixels(led[0])).any() and pixels(led[0]).shape == (24, 40, 3)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--mask", "mask.png"], "--mask needs --image"),
        (["--strength", "0.5"], "--strength needs --image"),
        (["--image", "gone.png"], "--image gone.png: there is no such file"),
        (["--image", "x", "--strength", "1.5"], "--strength 1.5: must be at most 1"),
        (["--image", "x", "--strength", "0"], "--strength 0.0: must be more than 0"),
        (["--image", "x", "--strength", "nan"], "--strength nan: must be a finite number"),
        (["--controlnet", "x/y"], "--controlnet needs --control_image"),
        (["--control_image", "pose.png"], "--control_image needs --controlnet"),
        (["--draw_edges"], "--draw_edges needs --controlnet"),
        (["--control_scale", "1"], "--control_scale needs --controlnet"),
        (["--controlnet", "x/y", "--control_image", "a", "b", "--output", "a.png"], "--output a.png: one file for 2"),
    ],
)
def test_flags_that_lack_something_are_refused_in_one_line(draw, arguments, reason):
    with pytest.raises(BadInput, match=f"^{re.escape(reason)}"):
        draw("--prompt", "a", *arguments)


def test_drawn_pictures_are_enlarged(draw, upscaler_twin):
    [small] = draw("--prompt", "a")
    large, sheet = draw("--prompt", "a", "--upscaler", upscaler_twin, "--grid")
    assert pixels(small).shape == (32, 32, 3) and pixels(large).shape == pixels(sheet).shape == (64, 64, 3)
    text = Image.open(large).text
    assert text["size"] == "64x64" and text["upscaler"] == str(upscaler_twin)


def test_pictures_of_several_prompts_are_each_enlarged_with_their_own(draw, upscaler_twin):
    both = draw("--prompt", "a", "b", "--num_images", 2, "--upscaler", upscaler_twin)
    alone = draw("--prompt", "b", "--num_images", 2, "--upscaler", upscaler_twin)
    assert all((pixels(one) == pixels(other)).all() for one, other in zip(both[2:], alone, strict=True))
    assert (pixels(both[0]) != pixels(both[2])).any()


def test_a_name_that_is_too_long_for_a_file_is_cut(draw, twin, tmp_path):
    control = build_control(tmp_path / "control", load_family(twin))
    pose = tmp_path / f"{'狗' * 70}.png"
    Image.new("RGB", (32, 32)).save(pose)
    [path] = draw("--prompt", "雪" * 80, "--controlnet", control, "--control_image", pose)
    assert len(Path(path).name.encode()) < 250 and Path(path).is_file()


def test_sheets_of_other_sizes_stay(draw):
    sheets = [draw("--prompt", "a", "--grid", "--height", side, "--num_inference_steps", 1)[-1] for side in (32, 40)]
    assert sheets[0] != sheets[1] and pixels(sheets[0]).shape[0] == 32


def test_an_upscaler_enlarges_a_picture_of_its_own(upscaler_twin, picture, tmp_path):
    line = ["--model_path", upscaler_twin, "--prompt", "a", "--num_inference_steps", 2, "--output", tmp_path / "o.png"]
    infer.main([str(each) for each in [*line, "--image", picture]])
    assert pixels(tmp_path / "o.png").shape == (64, 96, 3)
    with pytest.raises(BadInput, match="draws none from a prompt alone"):
        infer.main([str(each) for each in line])
    for more in (["--mask", picture], ["--strength", 0.5]):
        with pytest.raises(BadInput, match=f"^{more[0]}: a model that enlarges draws all anew"):
            infer.main([str(each) for each in [*line, "--image", picture, *more]])
