"""A class picture or a checkpoint that a disk has damaged: it is named, and what is sound goes on."""

import shutil

import pytest
from support.commands import command_line, python
from support.faults import contents, one_line
from support.weights import assert_same

pytestmark = pytest.mark.slow

SETTINGS = dict(max_train_steps=4, save_steps=1, ema_decay=0.5, train_text_encoder=True)
FILES = ["state.json", "optimizer.safetensors", "average.safetensors", "unet/config.json", "text_encoder/config.json",
         "unet/diffusion_paddle_model.safetensors", "text_encoder/model.safetensors"]  # fmt: skip


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def flip_first(path):
    flip(path, 0)


def flip_middle(path):
    flip(path, path.stat().st_size // 2)


def flip_last(path):
    flip(path, path.stat().st_size - 2)  # state.json ends with a line break


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def remove(path):
    path.unlink()


DAMAGES = [cut, flip_first, flip_middle, flip_last, remove]


@pytest.fixture(scope="module")
def whole(twin, pictures, tmp_path_factory):
    """A finished run with its three checkpoints."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = python("train_dreambooth.py", *command_line(twin, pictures, out, **SETTINGS))
    assert done.returncode == 0, done.stderr
    assert sorted(contents(out / "checkpoint-3")) == sorted(FILES)
    return out


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it, of which the newest checkpoint was not written, and the command line that goes on."""
    out = shutil.copytree(whole, tmp_path / "out")
    shutil.rmtree(out / "checkpoint-4")
    (out / "training_args.json").unlink()  # the run has not come to its end
    return out


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(run, twin, pictures, whole, file):
    line = command_line(twin, pictures, run, **SETTINGS)
    path, sound = run / "checkpoint-3" / file, (run / "checkpoint-3" / file).read_bytes()
    for damage in DAMAGES:
        damage(path)
        named = python("train_dreambooth.py", *line, "--resume_from_checkpoint", "checkpoint-3")
        error = one_line(named.stderr)
        assert named.returncode == 2 and f"{run}/checkpoint-3 is not whole: " in error and file in error, damage
        assert error.endswith("; checkpoint-2 is whole"), damage
        path.write_bytes(sound)
    flip_middle(path)
    done = python("train_dreambooth.py", *line, "--resume_from_checkpoint", "latest")
    assert done.returncode == 0, done.stderr
    warning = f"warning: {run}/checkpoint-3 is not whole: "
    assert any(each.startswith(warning) and file in each for each in done.stderr.splitlines()), done.stderr
    assert "from step 2" in done.stdout
    assert_same(run / "unet", whole / "unet")
    assert_same(run / "text_encoder", whole / "text_encoder")


@pytest.mark.parametrize("file", ["unet/diffusion_paddle_model.safetensors", "average.safetensors"])
def test_a_damaged_checkpoint_is_not_drawn_with(run, tmp_path, file):
    flip_middle(run / "checkpoint-3" / file)
    line = ["infer.py", "--model_path", run / "checkpoint-3", "--prompt", "a dog", "--num_inference_steps", 1]
    done = python(*line, "--output_dir", tmp_path / "drawn")
    assert done.returncode == 2 and f"{file} is damaged" in one_line(done.stderr)


def test_where_all_checkpoints_are_damaged_the_command_says_how_to_begin(run, twin, pictures):
    for folder in run.glob("checkpoint-*"):
        flip_middle(folder / "optimizer.safetensors")
    line = command_line(twin, pictures, run, **SETTINGS, resume_from_checkpoint="latest")
    done = python("train_dreambooth.py", *line)
    error = one_line(done.stderr)
    assert done.returncode == 2 and "checkpoint-2 is not whole" in error and "checkpoint-3 is not whole" in error
    assert "leave out the flag to start from the beginning" in error


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
def test_a_damaged_class_picture_is_named_and_drawn_anew(twin, pictures, tmp_path, damage, drawn):
    folder = shutil.copytree(drawn / "class", tmp_path / "class")
    whole = contents(folder)
    path = sorted(folder.rglob("*.png"))[1]
    damage(path)
    line = command_line(twin, pictures, tmp_path / "out", **with_class(folder))
    done = python("train_dreambooth.py", *line)
    assert done.returncode == 0, done.stderr
    if damage is not remove:
        assert f"{path} claims to be a picture and can't be read" in done.stderr and "it is not counted" in done.stderr
    assert "1 of them still to be drawn" in done.stdout
    assert contents(folder) == whole
    assert_same(tmp_path / "out/unet", drawn / "out/unet")


@pytest.fixture(scope="module")
def drawn(twin, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    done = python("train_dreambooth.py", *command_line(twin, pictures, folder / "out", **with_class(folder / "class")))
    assert done.returncode == 0, done.stderr
    return folder


def with_class(folder):
    return dict(with_prior_preservation=True, class_data_dir=folder, class_prompt="a photo of a dog",
                num_class_images=3, prior_inference_steps=2)  # fmt: skip


def test_every_byte_of_a_class_picture_counts(drawn, twin, pictures, tmp_path):
    """A byte flipped anywhere is either of no consequence for the pixels, or found."""
    from dreambooth.data import picture_files
    from dreambooth.drawing import prior_pictures

    [source] = list((drawn / "class").rglob("0-*.png"))
    pixels = picture_files.open_picture(source).tobytes()
    for place in range(0, source.stat().st_size, 7):
        path = tmp_path / source.name
        shutil.copy(source, path)
        flip(path, place)
        found, problems, _ = picture_files.scan_folder(tmp_path, prior_pictures._check_drawn)
        assert len(found) + len(problems) == 1 or path.read_bytes()[:8] != source.read_bytes()[:8], place
        if found:
            assert picture_files.open_picture(path).tobytes() == pixels, place
