"""The public face, by command lines and files alone: flags, help, exit codes, files, keys and purposes of randomness.

No internal name is used here, so that these tests outlive every move of the code.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from hashlib import sha1, sha256
from pathlib import Path

import pytest
from PIL import Image
from support import public_face as face
from support.commands import ROOT, python
from support.recorded_runs import SEEDS, RecordedRuns


def paths_of(*trees: dict[str, str], below: str = "") -> set[str]:
    """Give the paths of all files in some tables."""
    return {
        "/".join(filter(None, (below, folder, name)))
        for tree in trees
        for folder, names in tree.items()
        for name in names.split()
    }


def files_in(folder: Path) -> set[str]:
    """Give the paths of all files, in which the time of a log's start is left out."""
    paths = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {re.sub(r"vdlrecords\.\d+", "vdlrecords", path) for path in paths}


# the commands

# runs a command, and fails where that imported one of the libraries
LIGHT = """
import runpy, sys
command, sys.argv = sys.argv[1], sys.argv[1:]
try:
    if command.endswith(".py"):
        runpy.run_path(command, run_name="__main__")
    else:
        runpy.run_module(command, run_name="__main__", alter_sys=True)
finally:
    heavy = {"paddle", "paddlenlp", "ppdiffusers"} & set(sys.modules)
    assert not heavy, heavy
"""


def help_of(command: str) -> str:
    done = python("-c", LIGHT, command, "--help", COLUMNS="500")
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def flags_in(table: str) -> set[str]:
    return set(re.split(r"\s+(?=--)", table.strip()))


def listed_flags(text: str) -> set[str]:
    """Read a help text; each flag in the form of the tables."""
    found = set()
    for flag, words in re.findall(r"^  (--\S.*?)(?:  +|\n {8,})(.*(?:\n {8,}.*)*)", text, re.MULTILINE):
        literal = re.search(r"\(default: (\w[\w.+-]*)\)$", words)
        assert len(words) > 5, flag
        found.add(re.sub(r"( \S+)?, --", "|--", flag) + (f" = {literal[1]}" if literal else ""))
    return found


@pytest.mark.parametrize("command", face.COMMANDS)
def test_the_help_lists_every_flag_with_aliases_choices_and_default(command: str) -> None:
    assert listed_flags(help_of(command)) == flags_in(face.COMMANDS[command])


@pytest.mark.parametrize("command", face.OTHER_COMMANDS)
def test_every_other_command_has_a_help(command: str) -> None:
    assert help_of(command).startswith(f"usage: python -m {command} [-h]")


@pytest.mark.parametrize("command", face.COMMANDS)
@pytest.mark.parametrize("flags", [[], ["--no_such_flag"]])
def test_bad_input_is_one_line_and_exit_code_2(command: str, flags: list[str]) -> None:
    done = python("-c", LIGHT, command, *flags)
    [line] = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == "" and line.startswith("error: ") and "--" in line


@pytest.mark.parametrize("script", face.VARIABLES)
def test_a_script_passes_on_its_variables(tmp_path: Path, script: str) -> None:
    # this machine has no card, and this Python no Paddle for cards
    for name, text in (("python", '[ "$1" != -c ] && printf "%s\\n" "$@"'), ("nvidia-smi", "exit 9")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    flags = face.VARIABLES[script]
    given = {variable: f"the {variable}" for variable in flags.values()}
    paths = {"PYTHON": str(tmp_path / "python"), "PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    line = ["bash", script, "--seed", "1"]
    done = subprocess.run(line, cwd=ROOT, env={**os.environ, **paths, **given}, capture_output=True, text=True)
    words = done.stdout.splitlines()
    assert {flag: words[words.index(flag) + 1] for flag in flags} == {flag: given[flags[flag]] for flag in flags}
    assert words[-2:] == ["--seed", "1"]


# the files and the random numbers of runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, twin: Path, unidiffuser_twin: Path) -> RecordedRuns:
    return RecordedRuns(tmp_path_factory.mktemp("public"), twin, unidiffuser_twin)


def test_the_files_of_a_runs_folder(runs: RecordedRuns) -> None:
    drawn = [f"step-3-{prompt}-{number}.png" for prompt in (0, 1) for number in (0, 1)]
    samples = {"samples": " ".join([*drawn, *(f"class-step-3-0-{number}.png" for number in (0, 1))])}
    plain = paths_of(face.RESULT, face.PIPELINE, samples)
    for step in (2, 3):
        plain |= paths_of(face.CHECKPOINT, below=f"checkpoint-{step}")
    assert files_in(runs.folder / "plain") == plain
    lora = paths_of(face.RESULT, {"": "paddle_lora_weights.safetensors"})
    for step in (1, 2):
        lora |= paths_of(face.LORA_CHECKPOINT, below=f"checkpoint-{step}")
    assert files_in(runs.folder / "lora") == lora
    assert files_in(runs.folder / "unidiffuser") == paths_of(face.RESULT, face.UNIDIFFUSER_PIPELINE)


def test_training_args_json(runs: RecordedRuns) -> None:
    record, given = runs.json("plain/training_args.json"), runs.given["plain"]
    base = {"base_model", "base_folder", "base_weights", "base_index", "sizes"}
    assert record.keys() == {"flags", *base, "steps", "processes", "machine", "concepts", "versions"}
    assert record["machine"].keys() == {"processor", "mkl", "workers", "threads"}
    assert record["flags"] == {**face.DEFAULTS, **given}
    names = {re.match(r"--(\w+)", flag)[1] for flag in flags_in(face.TRAIN)}
    assert record["flags"].keys() == names - {"no_cache_latents", "no_last_checkpoint", "config", "preset"}
    assert record["base_model"] == given["pretrained_model_name_or_path"]
    assert Path(record["base_folder"]).is_absolute() and record["base_weights"].startswith("weights ")
    assert (record["steps"], record["processes"]) == (3, 1)
    [concept] = record["concepts"]
    assert set(concept) == {"prompt", "pictures", "class_prompt", "class_pictures"}
    for kind, folder in (("pictures", "dog"), ("class_pictures", "classes")):
        hashes = {each["name"]: each["sha256"] for each in concept[kind]}
        files = (path for path in (runs.folder / folder).rglob("*") if path.is_file())
        assert hashes == {path.name: sha256(path.read_bytes()).hexdigest() for path in files}
        assert all(set(each) == {"name", "sha256"} for each in concept[kind])
    assert {"python", "ppdiffusers", "paddlenlp", "numpy", "Pillow"} <= record["versions"].keys()
    assert runs.json("lora/training_args.json")["flags"]["learning_rate"] == 1e-4


def test_state_json(runs: RecordedRuns) -> None:
    for run, step, more in (("plain", 2, face.PRIOR_COURSE), ("lora", 1, face.LORA_COURSE)):
        folder = runs.folder / run / f"checkpoint-{step}"
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        assert set(state) == face.STATE
        assert state["step"] == step and state["course"].keys() == face.COURSE | more
        assert state["arguments"] == runs.json(f"{run}/training_args.json")
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*.*")}
        assert state["checksums"].keys() == state["files"].keys()
        assert state["files"] == {name: size for name, size in sizes.items() if name != "state.json"}
        assert set(state["optimizer"]) == {"scaler", "schedule"}
        assert set(state["optimizer"]["schedule"]) == {"last_epoch", "last_lr"}


def test_the_keys_of_a_checkpoints_optimizer(runs: RecordedRuns) -> None:
    for folder, unet in (("plain/checkpoint-2", "diffusion_paddle_model"), ("lora/checkpoint-2", "model")):
        parts = {
            "unet": f"{folder}/unet/{unet}.safetensors",
            "text_encoder": f"{folder}/text_encoder/model.safetensors",
        }
        names = {f"{part}.{name}" for part, path in parts.items() for name in runs.tensors(path)}
        assert len(names) > 40
        assert runs.tensors(f"{folder}/optimizer.safetensors") == {f"{a}.{b}" for a in names for b in face.MOMENTS}
    assert "unet.conv_in.weight.moment1" in runs.tensors("plain/checkpoint-2/optimizer.safetensors")


def test_class_pictures_are_named_by_number_and_pixels_and_say_what_drew_them(runs: RecordedRuns) -> None:
    for folder, run in (("classes", "plain"), ("unidiffuser-classes", "unidiffuser")):
        for number, path in enumerate(sorted((runs.folder / folder).glob("a-photo-of-a-dog-*/*.png"))):
            with Image.open(path) as image:
                assert path.name == f"{number}-{sha1(image.tobytes()).hexdigest()}.png"
                model = runs.given[run]["pretrained_model_name_or_path"]
                assert image.info.items() >= {"prompt": "a photo of a dog", "model": model}.items()
                assert image.info.keys() == {"prompt", "model", "weights", "seed", "steps", "scheduler"}
        assert number == 1


def test_drawn_pictures_say_how_they_were_drawn(runs: RecordedRuns) -> None:
    text = {"prompt", "picture", "negative_prompt", "seed", "steps", "guidance_scale", "scheduler", "size", "model"}
    for run, more in (("infer", {"lora", "lora_scale"}), ("infer unidiffuser", set())):
        for number in (0, 1):
            with Image.open(runs.folder / f"a-0-seed{SEEDS[run]}-{number}.png") as image:
                assert image.info.keys() == text | more


def numbered(count: int) -> set[tuple[int, ...]]:
    return {(number,) for number in range(count)}


def examples(updates: int, slots: int, kinds: int) -> set[tuple[int, ...]]:
    """Give the keys (update, slot, kind) of all examples of a run."""
    return set(itertools.product(range(updates), range(slots), range(kinds)))


def test_the_purposes_of_randomness_in_a_plain_run(runs: RecordedRuns) -> None:
    each_example = dict.fromkeys(("latent", "noise", "timestep", "flip"), examples(3, 2, 2))
    # 6 of 3 pictures of the subject, 6 of 2 of the class: 2 and 3 turns
    orders = {"order of kind 0": numbered(2), "order of kind 1": numbered(3)}
    drawn = {"class picture": numbered(2), "picture": numbered(2)}
    assert runs.streams("plain") == {**each_example, **orders, **drawn}


def test_the_purposes_of_randomness_in_a_lora_run(runs: RecordedRuns) -> None:
    layers = {
        re.sub(r"\.(lora|lora_linear_layer)\.(up|down)\.weight$", "", name)
        for name in runs.tensors("lora/paddle_lora_weights.safetensors")
    }
    assert len(layers) == 40
    started = {f"lora {layer.replace('.', ' ', 1)}": {()} for layer in layers}
    each_example = dict.fromkeys(("latent", "noise", "timestep", "lora dropout unet"), examples(2, 1, 1))
    # the text encoder's goes by (update, prompt)
    dropout = {"lora dropout text_encoder": {(0, 0), (1, 0)}}
    assert runs.streams("lora", *started) == {**started, **each_example, **dropout, "order of kind 0": numbered(1)}


def test_the_purposes_of_randomness_with_a_unidiffuser(runs: RecordedRuns) -> None:
    each_example = dict.fromkeys(("latent", "noise", "timestep"), examples(1, 1, 2))
    orders = {"order of kind 0": numbered(1), "order of kind 1": numbered(1)}
    drawn = dict.fromkeys(("class picture", "class picture embedding", "class picture steps"), numbered(2))
    assert runs.streams("unidiffuser") == {**each_example, **orders, **drawn}
    drawn = dict.fromkeys(("picture", "picture embedding", "picture steps"), numbered(2))
    assert runs.streams("infer unidiffuser") == drawn


def test_the_purposes_of_randomness_in_drawing_and_in_the_choice_of_identifiers(runs: RecordedRuns) -> None:
    assert runs.streams("infer") == {"picture": numbered(2), "picture steps": numbered(2)}
    assert runs.streams("identifier") == {"identifiers": {()}}
