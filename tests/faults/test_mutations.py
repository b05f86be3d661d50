"""Damaged files of every kind, drawn from fixed seeds: one line or a result, in little memory and time."""

import os
import resource
import shutil
import signal
import traceback
from pathlib import Path

import pytest
from PIL import Image
from support.commands import command_line
from support.crafted_pickles import torch_weights
from support.faults import Running, one_line
from support.mutations import mutated

from dreambooth.data import picture_files
from dreambooth.files import atomic, records, safetensors, weight_files
from dreambooth.models import pipeline_folder
from dreambooth.system.errors import BadInput

pytestmark = pytest.mark.slow

SECONDS, BYTES = 20, 2 << 30  # at most, for a file
SEEDS = {"safetensors": 50, "pdparams": 40, "bin": 40, "json": 30, "png": 20, "jpeg": 20}


@pytest.fixture(scope="module")
def sources(twin, pictures, tmp_path_factory):
    """A sound file of each kind, with its bytes."""
    folder = tmp_path_factory.mktemp("sound")
    [weights] = (twin / "vae").glob("*.safetensors")
    plain = weight_files.read(weights)[0]
    few = {name: plain[name] for name in sorted(plain)[:12]}
    safetensors.write(folder / "a.safetensors", few, {"format": "pt"})
    weight_files.write_pickled(folder / "a.pdparams", few)
    torch_weights(folder / "a.bin", few)
    with Image.open(pictures / "0.png") as image:
        image.save(folder / "a.png")
        image.save(folder / "a.jpeg", exif=exif())
    shutil.copy(twin / "model_index.json", folder / "a.json")
    return {path.suffix[1:]: path.read_bytes() for path in folder.iterdir()}


def exif():
    found = Image.Exif()
    found[0x0112] = 6  # orientation
    return found


def read_weights(path):
    weight_files.check(path)
    weights, metadata = weight_files.read(path)
    assert all(isinstance(name, str) and array.nbytes >= 0 for name, array in weights.items()) and metadata is not None


def read_json(path):
    """As each of the files of JSON that the tool reads."""
    folder = path.parent / "folder"
    folder.mkdir(exist_ok=True)
    errors = []
    for name, read in (
        ("model_index.json", lambda: pipeline_folder.check(str(folder))),
        ("state.json", lambda: records.read_state(folder)),
        ("training_args.json", lambda: records.read_result(folder)),
        ("anything.json", lambda: atomic.read_json(folder / "anything.json")),
    ):
        (folder / name).write_bytes(path.read_bytes())
        try:
            read()
        except (BadInput, ValueError) as error:
            errors.append(error)
        (folder / name).unlink()
    for error in errors:
        assert "\n" not in str(error)


def read_picture(path):
    pictures, problems, others = picture_files.scan_folder(path.parent)
    assert len(pictures) + len(problems) + len(others) == 1
    for each in problems:
        assert "\n" not in each
    for each in pictures:
        assert picture_files.open_picture(each.path).size == each.size[::-1]


READERS = {**dict.fromkeys(("safetensors", "pdparams", "bin"), read_weights), "json": read_json,
           "png": read_picture, "jpeg": read_picture}  # fmt: skip


def overdue(number, frame):
    raise TimeoutError(f"more than {SECONDS} s")


def read_all(cases, folder):
    """Read each case, within bounds of time and memory; write down which failed, and how to repeat them."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    signal.signal(signal.SIGALRM, overdue)
    failed = []
    for kind, seed, data in cases:
        place = folder / f"{kind}-{seed}"
        place.mkdir()
        path = place / f"a.{kind}"
        path.write_bytes(data)
        signal.alarm(SECONDS)
        try:
            READERS[kind](path)
        except (ValueError, BadInput) as error:
            if "\n" in str(error):
                failed.append(f"{kind} {seed}: several lines: {error}")
        except BaseException:
            failed.append(f"mutated(sources[{kind!r}], {seed}):\n{traceback.format_exc()}")
        finally:
            signal.alarm(0)
    (folder / "failed").write_text("\n".join(failed))


def test_two_hundred_damaged_files_are_read_or_refused_in_one_line(sources, tmp_path):
    cases = [
        (kind, seed, mutated(sources[kind], seed, text=kind in ("json", "safetensors")))
        for kind, count in SEEDS.items()
        for seed in range(count)
    ]
    assert len(cases) == 200
    child = os.fork()
    if not child:
        try:
            read_all(cases, tmp_path)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert not (tmp_path / "failed").read_text()


def damaged_model(twin, folder, name, seed):
    model = shutil.copytree(twin, folder)
    [path] = model.glob(name)
    path.write_bytes(mutated(path.read_bytes(), seed, text=path.suffix in (".json", ".txt")))
    return model


def bounded(line, tmp_path, repeat):
    """Run a command, which ends well or in one line, in time and in memory."""
    running = Running(line, tmp_path)
    code = running.end(SECONDS + 20)  # a command also loads a model
    assert code in (0, 1, 2), (repeat, code, running.text)
    if code:
        assert one_line(running.err), repeat
    assert running.peak < BYTES + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, repeat


PARTS = ["vae/*.safetensors", "unet/*.safetensors", "unet/config.json", "vae/config.json", "text_encoder/config.json",
         "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "model_index.json",
         "tokenizer/tokenizer_config.json"]  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_drawing_with_a_model_with_a_damaged_file(twin, tmp_path, name):
    for seed in range(4):
        model = damaged_model(twin, tmp_path / f"model {seed}", name, seed)
        line = ["infer.py", "--model_path", model, "--prompt", "a dog", "--num_inference_steps", 1, "--height", 32,
                "--width", 32, "--output_dir", tmp_path / "drawn"]  # fmt: skip
        bounded(line, tmp_path, f"damaged_model(twin, folder, {name!r}, {seed})")


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_training_on_a_damaged_picture(twin, pictures, sources, tmp_path, kind):
    for seed in range(100, 105):
        folder = shutil.copytree(pictures, tmp_path / f"pictures {seed}")
        (folder / f"a.{kind}").write_bytes(mutated(sources[kind], seed))
        line = command_line(twin, folder, tmp_path / f"out {seed}", max_train_steps=1)
        bounded(["train_dreambooth.py", *line], tmp_path, f"mutated(sources[{kind!r}], {seed})")


@pytest.mark.parametrize("form", ["lora_paddle", "lora_diffusers"])
def test_a_damaged_lora(twin, pictures, tmp_path, form):
    line = command_line(twin, pictures, tmp_path / "lora", lora_rank=2, max_train_steps=1)
    assert Running(["train_dreambooth.py", *line], tmp_path).end() == 0
    sound = tmp_path / "sound.safetensors"
    export = ["-m", "dreambooth.export", "--model_path", tmp_path / "lora", "--format", form, "--output", sound]
    assert Running(export, tmp_path).end() == 0
    for seed in range(6):
        path = tmp_path / f"{seed}.safetensors"
        path.write_bytes(mutated(sound.read_bytes(), seed, text=True))
        line = ["infer.py", "--model_path", twin, "--lora", path, "--prompt", "a dog", "--num_inference_steps", 1,
                "--output_dir", tmp_path / "drawn"]  # fmt: skip
        bounded(line, tmp_path, f"seed {seed} of {form}")
