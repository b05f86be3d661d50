"""kill -9 at any moment: what was whole stays whole, and the same command ends with the same bits."""

import random
import signal

import pytest
from support.commands import command_line, python
from support.faults import Running, contents, leftovers, run_killed
from support.weights import assert_same

pytestmark = pytest.mark.slow

STEPS, KILLS, MOST_CHANGES = 40, 20, 55  # a checkpoint makes some 25 changes


def finish(line):
    done = python(*line)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_that_is_killed_twenty_times_ends_with_the_bits_of_one_that_is_not(twin, pictures, tmp_path):
    settings = dict(max_train_steps=STEPS, save_steps=1, checkpoints_total_limit=2, ema_decay=0.5, random_flip=True,
                    lora_rank=2, lora_dropout=0.2, no_last_checkpoint=None)  # fmt: skip
    finish(["train_dreambooth.py", *command_line(twin, pictures, tmp_path / "whole", **settings)])
    out, moments = tmp_path / "out", random.Random(1)
    line = ["train_dreambooth.py", *command_line(twin, pictures, out, **settings, resume_from_checkpoint="latest")]
    drawn = [moments.randrange(MOST_CHANGES) for _ in range(KILLS)]
    killed = [run_killed(out, number, line, tmp_path) for number in drawn]
    assert sum(killed) == KILLS, (drawn, killed)
    finish(line)
    assert not leftovers(out)
    for name in ("unet/model.safetensors", "optimizer.safetensors", "average.safetensors"):
        one, other = (each / f"checkpoint-{STEPS}" / name for each in (out, tmp_path / "whole"))
        assert one.read_bytes() == other.read_bytes(), (name, drawn)
    result = "paddle_lora_weights.safetensors"
    assert (out / result).read_bytes() == (tmp_path / "whole" / result).read_bytes(), drawn


def test_a_run_that_is_killed_while_bytes_are_written(twin, pictures, tmp_path):
    """A time after a checkpoint's folder appears, from the first microseconds to the step that follows."""
    settings = dict(max_train_steps=8, save_steps=1, train_text_encoder=True)
    finish(["train_dreambooth.py", *command_line(twin, pictures, tmp_path / "whole", **settings)])
    out, moments = tmp_path / "out", random.Random(2)
    line = ["train_dreambooth.py", *command_line(twin, pictures, out, **settings, resume_from_checkpoint="latest")]
    for _ in range(6):
        before = {path.name for path in out.glob("checkpoint-*")}
        if len(before) >= settings["max_train_steps"] - 1:
            break
        running = Running(line, tmp_path)
        running.wait_for(lambda: list(out.glob(".checkpoint-*.unfinished")))
        delay = moments.random() ** 2 * 0.1
        signal.sigtimedwait([], delay)
        running.kill()
        assert running.code == -signal.SIGKILL, (delay, running.text)
    finish(line)
    assert not leftovers(out)
    for part in ("unet", "text_encoder"):
        assert_same(out / part, tmp_path / "whole" / part)


@pytest.fixture(scope="module")
def drawn_whole(twin, pictures, tmp_path_factory):
    """The class pictures and the result of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    finish(["train_dreambooth.py", *command_line(twin, pictures, folder / "out", **with_class(folder))])
    return folder


def with_class(folder):
    return dict(with_prior_preservation=True, class_data_dir=folder / "class", class_prompt="a photo of a dog",
                num_class_images=6, prior_inference_steps=2, sample_batch_size=2)  # fmt: skip


def test_a_run_that_is_killed_while_it_draws_class_pictures(twin, pictures, tmp_path, drawn_whole):
    line = ["train_dreambooth.py", *command_line(twin, pictures, tmp_path / "out", **with_class(tmp_path))]
    for number in (1, 2, 3, 5, 7, 12):  # the folder, and three changes a picture
        assert run_killed(tmp_path / "class", number, line, tmp_path)
    finish(line)
    assert not leftovers(tmp_path / "class") and not leftovers(tmp_path / "out")
    assert contents(tmp_path / "class") == contents(drawn_whole / "class")
    assert_same(tmp_path / "out/unet", drawn_whole / "out/unet")


@pytest.mark.parametrize("earlier", [False, True], ids=["the first one", "over an earlier one"])
def test_a_run_that_is_killed_while_it_saves_its_pipeline(twin, pictures, tmp_path, earlier):
    settings = dict(max_train_steps=2, save_steps=100, no_last_checkpoint=None, save_format="safetensors")
    finish(["train_dreambooth.py", *command_line(twin, pictures, tmp_path / "whole", **settings)])
    out = tmp_path / "out"
    if earlier:
        finish(["train_dreambooth.py", *command_line(twin, pictures, out, max_train_steps=1)])
    finish(["train_dreambooth.py", *command_line(twin, pictures, out, **settings)])
    for path in [*out.glob("*.json"), *(out / "unet").iterdir()]:
        path.unlink()  # only the checkpoint of the end is there
    line = ["train_dreambooth.py", *command_line(twin, pictures, out, **settings, resume_from_checkpoint="latest")]
    for number in (3, 9, 17, 26, 34, 41):
        if not run_killed(out, number, line, tmp_path):
            break
    finish(line)
    assert not leftovers(out)
    but = ("logs", "checkpoint-2", "checkpoint-1", "training_args.json", "README.md", "model_index.json")
    assert contents(out, *but) == contents(tmp_path / "whole", *but)
    drawn = python("infer.py", "--model_path", out, "--prompt", "a dog", "--num_inference_steps", 1,
                   "--output_dir", tmp_path / "drawn")  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr


@pytest.mark.parametrize("form", ["safetensors", "diffusers", "single_file"])
def test_an_export_that_is_killed_leaves_nothing_and_ends_when_it_is_started_again(twin, tmp_path, form):
    place = tmp_path / "made"
    place.mkdir()
    name = "model.safetensors" if form == "single_file" else "model"

    def line(folder):
        return ["-m", "dreambooth.export", "--model_path", twin, "--format", form, "--output", folder / name]

    finish(line(tmp_path))
    for number in (1, 2, 4, 8, 13):
        was_killed = run_killed(place, number, line(place), tmp_path)
        if not was_killed:
            (place / name).unlink() if form == "single_file" else None
            break
        assert not (place / name).exists(), number
    if not (place / name).exists():
        finish(line(place))
    assert not leftovers(place)
    if form == "single_file":
        assert (place / name).read_bytes() == (tmp_path / name).read_bytes()
    else:
        assert contents(place / name) == contents(tmp_path / name)
