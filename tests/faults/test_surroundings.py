"""Unusual surroundings: clocks, folders that can only be read, no home, other locales, paths of any kind."""

import os
import re
import subprocess

import pytest
from support.commands import command_line, new_python, python
from support.faults import contents, leftovers, one_line
from support.pictures import draw_pictures
from support.weights import assert_same

from dreambooth.run import checkpoints

pytestmark = pytest.mark.slow


def line(model, pictures, out, **changes):
    return ["train_dreambooth.py", *command_line(model, pictures, out, **changes)]


# a command whose clock goes back by a day after some calls, and stays there
CLOCK = """
import runpy, sys, time
calls, back, after = [0], int(sys.argv[1]), int(sys.argv[2])

def jumping(now, unit):
    def read():
        calls[0] += 1
        return now() - type(now())((back if calls[0] > after else 0) * unit)
    return read

time.time, time.time_ns = jumping(time.time, 1), jumping(time.time_ns, 10**9)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("back", [86400, -86400], ids=["back", "forth"])
def test_a_clock_that_jumps_in_the_middle_of_a_run(twin, pictures, tmp_path, back):
    (tmp_path / "clock.py").write_text(CLOCK)
    settings = dict(max_train_steps=6, save_steps=1, checkpoints_total_limit=2, no_last_checkpoint=None)
    out = tmp_path / "out"
    first = line(twin, pictures, out, **{**settings, "max_train_steps": 4})
    done = python(tmp_path / "clock.py", back, 30, *first)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert checkpoints.find("latest", out)[0].folder.name == "checkpoint-4"
    # the clock is right again, or a day before the checkpoints
    go_on = line(twin, pictures, out, **settings, resume_from_checkpoint="latest")
    done = python(*go_on)
    assert done.returncode == 0 and "from step 4" in done.stdout, done.stdout + done.stderr
    assert checkpoints.find("latest", out)[0].folder.name == "checkpoint-6"
    done = python(*go_on)
    assert done.returncode == 0 and "has all 6 updates already" in done.stdout
    assert python(*line(twin, pictures, tmp_path / "straight", **settings)).returncode == 0
    assert_same(out / "unet", tmp_path / "straight/unet")


@pytest.fixture
def read_only(tmp_path):
    """A function that shows a folder at a place where it can only be read."""
    mounts = []

    def show(folder):
        place = tmp_path / "read only"
        place.mkdir()
        try:
            subprocess.run(["mount", "--bind", folder, place], check=True, capture_output=True)
            mounts.append(place)
            subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a folder that even root can only read needs the right to mount one ({error})")
        with pytest.raises(OSError):
            (place / "x").write_text("x")
        return place

    yield show
    for place in mounts:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("kind", ["paddle", "torch"])
def test_a_model_in_a_folder_that_can_only_be_read(twin, torch_twin, pictures, tmp_path, read_only, kind):
    model = read_only({"paddle": twin, "torch": torch_twin}[kind])
    assert python(*line(model, pictures, tmp_path / "out", save_steps=1)).returncode == 0
    drawn = ["infer.py", "--model_path", model, "--prompt", "a dog", "--num_inference_steps", 1]
    assert python(*drawn, "--output_dir", tmp_path / "drawn").returncode == 0
    exported = ["-m", "dreambooth.export", "--model_path", model, "--format", "diffusers", "--output", tmp_path / "new"]
    assert python(*exported).returncode == 0
    assert python("infer.py", "--model_path", tmp_path / "out/checkpoint-1", *drawn[3:], "--output_dir", tmp_path / "b")


def test_an_output_folder_that_can_only_be_read_is_one_line(twin, pictures, tmp_path, read_only):
    (tmp_path / "own").mkdir()
    place = read_only(tmp_path / "own")
    for out in (place, place / "new"):
        done = python(*line(twin, pictures, out))
        assert done.returncode == 2 and f"--output_dir {out}: it is no folder that can be written" in one_line(
            done.stderr
        )
    done = python(*line(twin, pictures, tmp_path / "out", logging_dir=place / "logs"))
    assert done.returncode == 2 and "--logging_dir" in one_line(done.stderr)
    drawn = ["infer.py", "--model_path", twin, "--prompt", "a dog", "--num_inference_steps", 1, "--output_dir", place]
    done = python(*drawn)
    assert done.returncode == 2 and str(place) in one_line(done.stderr)


def test_without_a_home_folder(twin, pictures, tmp_path):
    environment = {"HOME": "", "XDG_CACHE_HOME": ""}
    done = new_python(*line(twin, pictures, tmp_path / "out"), **environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    done = new_python("infer.py", "--model_path", tmp_path / "out", "--prompt", "a dog", "--num_inference_steps", 1,
                      "--output_dir", tmp_path / "drawn", **environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    # a name has to be fetched, and there is no place for it
    done = new_python("infer.py", "--model_path", "nobody/nothing", "--prompt", "a", HF_HUB_OFFLINE="1", **environment)
    assert done.returncode == 2 and "nobody/nothing" in one_line(done.stderr)


def test_a_home_folder_that_cannot_be_made_is_one_line(twin, pictures, tmp_path):
    """The libraries keep their caches below it."""
    done = new_python(*line(twin, pictures, tmp_path / "out"), HOME="/proc/none", XDG_CACHE_HOME="")
    assert done.returncode == 2 and "/proc/none" in one_line(done.stderr)


LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "POSIX", "LANG": "zh_CN.GBK"},
    {"LC_ALL": "", "LANG": "zh_CN.GBK", "PYTHONIOENCODING": "gbk"},
]


@pytest.mark.parametrize("locale", LOCALES, ids=lambda each: "-".join(each.values()))
def test_a_locale_that_is_not_utf_8(twin, pictures, tmp_path, locale):
    out = tmp_path / "狗 的 模型"
    dogs = draw_pictures(tmp_path / "照片", 3)
    raw = {**os.environ, **locale}
    for arguments in (
        line(twin, dogs, out, instance_prompt="一张sks狗的照片", validation_prompt="一张sks狗的照片"),
        ["infer.py", "--model_path", out, "--prompt", "一张sks狗的照片", "--num_inference_steps", "1",
         "--output_dir", tmp_path / "画"],
    ):  # fmt: skip
        done = subprocess.run(
            [os.sys.executable, *map(str, arguments)], env=raw, capture_output=True, timeout=120, check=False
        )
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    assert "一张sks狗的照片" in (out / "README.md").read_text(encoding="utf-8")
    [drawn] = (tmp_path / "画").glob("*.png")
    assert drawn.name.startswith("一张sks狗的照片-")
    missing = subprocess.run([os.sys.executable, "infer.py", "--model_path", "./没有", "--prompt", "a"], env=raw,
                             capture_output=True, timeout=120, check=False)  # fmt: skip
    assert missing.returncode == 2 and missing.stderr.startswith(b"error: ") and missing.stderr.count(b"\n") == 1


NAMES = ["with space", 'it\'s "quoted"', "狗的文件夹", "two\nlines", "-dash", "$HOME `x`;#", "a%20b&c=d?e", "x" * 200]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: re.sub(r"\W+", "-", name)[:20])
def test_paths_of_any_kind(twin, pictures, tmp_path, name):
    import shutil

    place = tmp_path / name
    model, dogs = shutil.copytree(twin, place / "model"), shutil.copytree(pictures, place / name)
    prior = dict(with_prior_preservation=True, class_data_dir=place / "class", class_prompt="a photo of a dog",
                 num_class_images=1, prior_inference_steps=1)  # fmt: skip
    out = place / "out"
    commands = [
        line(model, dogs, out, save_steps=1, lora_rank=2, **prior),
        line(model, dogs, out, max_train_steps=3, save_steps=1, lora_rank=2, resume_from_checkpoint="latest", **prior)
        + ["--allow_changes"],
        ["infer.py", "--model_path", out, "--prompt", "a dog", "--num_inference_steps", 1, "--output_dir", place / "a"],
        ["infer.py", "--model_path", out / "checkpoint-1", "--prompt", name.strip("-"), "--num_inference_steps", 1,
         "--output", place / "b.png"],
        ["-m", "dreambooth.export", "--model_path", out, "--format", "pdparams", "--output", place / "new"],
    ]  # fmt: skip
    for command in commands:
        done = python(*command)
        assert done.returncode == 0 and "Traceback" not in done.stderr, (command, done.stderr)
    assert not leftovers(place) and contents(place / "new")
    done = python(*line(place / "missing", dogs, place / "none"))
    assert done.returncode == 2 and done.stderr.rstrip("\n").count("\n") <= 1 and one_line(done.stderr)
