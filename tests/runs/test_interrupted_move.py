"""A run that was killed while its pipeline moved in: every command that opens the folder completes the move first."""

import json
import shutil
import signal

import pytest
from support.commands import command_line, python, train
from support.slowly import mostly_slow
from support.weights import assert_same

import infer
from dreambooth import export, identifier, metrics
from dreambooth.files import moves
from dreambooth.run import output_folder
from dreambooth.system.errors import BadInput

# kills the process with the signal that cannot be caught, at the rename to the path in the first argument
KILLED_AT = """
import os, signal, sys
import train_dreambooth

def kill(event, arguments):
    if event == "os.rename" and str(arguments[1]) == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
train_dreambooth.main(sys.argv[2:])
"""


def interrupt(folder):
    """Put a folder into the state of a move that has only begun: all new parts are complete, and none has moved."""
    new = folder / ".pipeline.new"
    new.mkdir()
    for part in list(folder.iterdir()):
        if part != new and not part.name.startswith("checkpoint"):
            part.rename(new / part.name)
    (new / "move.json").write_text(json.dumps({"last": list(output_folder._LAST), "stale": ["feature_extractor"]}))
    (folder / "feature_extractor").mkdir()
    return folder


def is_complete(folder):
    return not (folder / ".pipeline.new").exists() and not (folder / "feature_extractor").exists()


@pytest.fixture(scope="module")
def lora(twin, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("a lora") / "out"
    train(command_line(twin, pictures, folder, lora_rank=2, max_train_steps=1))
    return folder


@pytest.fixture
def stopped(twin, lora, tmp_path):
    """A function that makes a folder in which a move was stopped, of a pipeline or a LoRA."""
    return lambda kind: interrupt(shutil.copytree({"pipeline": twin, "lora": lora}[kind], tmp_path / f"stopped {kind}"))


def draw(folder, *more):
    infer.read_settings(["--model_path", str(folder), "--prompt", "a dog", *more])


def measure(model, base, pictures):
    line = ["--model_path", str(model), "--base_model_path", str(base), "--subject_data_dir", str(pictures)]
    metrics.read_settings([*line, "--clip_model_path", str(base), "--prompt", "a dog"])


def export_as(folder, form, place):
    export.read_settings(["--model_path", str(folder), "--format", form, "--output", str(place)])


@pytest.mark.parametrize("kind", ["pipeline", "lora"])
def test_infer_metrics_and_export_complete_it(stopped, kind, twin, pictures, tmp_path):
    commands = (
        draw,
        lambda folder: draw(folder, *(["--lora_scale", "1"] if kind == "lora" else [])),
        lambda folder: measure(folder, twin, pictures),
        lambda folder: measure(twin, folder, pictures),
        lambda folder: export_as(folder, "safetensors", tmp_path / "new"),
    )
    for number, command in enumerate(commands):
        folder = stopped(kind)
        command(folder)
        assert is_complete(folder)
        folder.rename(tmp_path / f"done {number}")


def test_a_lora_as_such_is_completed(stopped, twin, tmp_path):
    folder = stopped("lora")
    draw(twin, "--lora", str(folder))
    assert is_complete(folder)
    folder.rename(tmp_path / "done")
    folder = stopped("lora")
    export_as(folder, "lora_diffusers", tmp_path / "new.safetensors")
    assert is_complete(folder)


def test_identifier_completes_it(stopped):
    folder = stopped("pipeline")
    identifier.read_settings(["--model", str(folder)])
    assert is_complete(folder)


def test_training_completes_it_in_its_base_and_in_its_output_folder(stopped, pictures, twin, tmp_path):
    folder = stopped("pipeline")
    train(command_line(folder, pictures, tmp_path / "out", dry_run=True))
    assert is_complete(folder)
    train(command_line(twin, pictures, tmp_path / "out", max_train_steps=1))
    with open(tmp_path / "out/README.md", "a") as card:
        card.write("mine")
    out = interrupt(tmp_path / "out")
    train(command_line(twin, pictures, out, max_train_steps=1, dry_run=True))
    assert is_complete(out) and (out / "README.md").read_text().endswith("mine")


def test_a_lora_whose_base_was_stopped(stopped, lora, tmp_path):
    base, folder = stopped("pipeline"), tmp_path / "lora"
    shutil.copytree(lora, folder)
    record = json.loads((folder / "training_args.json").read_text())
    (folder / "training_args.json").write_text(
        json.dumps({**record, "base_model": str(base), "base_folder": str(base)})
    )
    draw(folder)
    assert is_complete(base)


def test_a_folder_that_cannot_be_written_is_one_line_with_the_remedy(stopped, monkeypatch):
    folder = stopped("pipeline")

    def read_only(path, *arguments):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(moves.atomic, "flush", read_only)
    with pytest.raises(BadInput) as caught:
        draw(folder)
    line = str(caught.value)
    assert line.startswith(f"--model_path {folder}: a run was stopped while it moved its result in")
    assert "Read-only file system" in line and "make the folder writable" in line and "\n" not in line


@pytest.mark.parametrize("place", mostly_slow(["model_index.json", "unet", ".pipeline.new"]))
def test_a_run_that_is_killed_in_the_move_leaves_the_old_pipeline_or_completes_the_new_one(
    twin, pictures, tmp_path, place
):
    out = tmp_path / "out"
    train(command_line(twin, pictures, out, max_train_steps=1))
    train(command_line(twin, pictures, tmp_path / "whole", max_train_steps=3, save_format="safetensors"))
    shutil.copytree(out, tmp_path / "earlier")
    line = command_line(twin, pictures, out, max_train_steps=3, save_format="safetensors")
    killed = python("-c", KILLED_AT, out / place, *line)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (out / "model_index.json").exists() is (place == ".pipeline.new")
    drawn = python("infer.py", "--model_path", out, "--prompt", "a dog", "--num_inference_steps", 1,
                   "--output_dir", tmp_path / "drawn")  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    assert_same(out / "unet", tmp_path / ("earlier" if place == ".pipeline.new" else "whole") / "unet")
    train([*line, "--dry_run"])  # the next start cleans up
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
