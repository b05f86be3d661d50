"""The comparison of two revisions: it finds every kind of difference, and none where there is none."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_revisions import RUNS, compare_folders, export_revision
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file
from support.commands import ROOT

STATE = {"step": 2, "written_ns": 5, "course": {"the pictures' hashes": ["a", "b"]}}


def save_picture(path: Path, colour: str, **text: str) -> None:
    info = PngInfo()
    for key, value in text.items():
        info.add_itxt(key, value)
    Image.new("RGB", (4, 4), colour).save(path, pnginfo=info)


def header_in_another_order(path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(dict(reversed(header.items()))).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    one = tmp_path / "one"
    one.mkdir()
    save_file({"a": np.zeros([2, 3], np.float32), "b": np.ones(2, np.float16)}, one / "model.safetensors")
    (one / "model_state.pdparams").write_bytes(pickle.dumps({"a": np.zeros([2, 3], np.float32)}))
    (one / "state.json").write_text(json.dumps(STATE))
    (one / "README.md").write_text("# A card")
    save_picture(one / "0.png", "red", prompt="a dog")
    shutil.copytree(one, tmp_path / "two")
    return one, tmp_path / "two"


def test_equal_folders_have_no_differences(folders: tuple[Path, Path]) -> None:
    assert list(compare_folders(*folders)) == []


def test_the_time_of_writing_is_no_difference(folders: tuple[Path, Path]) -> None:
    (folders[1] / "state.json").write_text(json.dumps({**STATE, "written_ns": 6}))
    assert list(compare_folders(*folders)) == []


CHANGES: dict[str, tuple[str, Any]] = {
    "model.safetensors: 1 of 5 items: a by up to 0.5": (
        "model.safetensors",
        lambda path: save_file({"a": np.full([2, 3], 0.5, np.float32), "b": np.ones(2, np.float16)}, path),
    ),
    "model.safetensors: 4 of 7 items: b is missing; kind of b is missing; c is new; and 1 more": (
        "model.safetensors",
        lambda path: save_file({"a": np.zeros([2, 3], np.float32), "c": np.ones(2, np.float16)}, path),
    ),
    "model.safetensors: header only; the contents are equal": ("model.safetensors", header_in_another_order),
    "model.safetensors: can't be read": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:20])),
    "model_state.pdparams: 1 of 1 items: a: float32 [2, 3], float32 [3, 2]": (
        "model_state.pdparams",
        lambda path: path.write_bytes(pickle.dumps({"a": np.zeros([3, 2], np.float32)})),
    ),
    "state.json: 1 of 3 items: course.the pictures' hashes.1: b, c": (
        "state.json",
        lambda path: path.write_text(path.read_text().replace('"b"', '"c"')),
    ),
    "state.json: order or encoding only; the contents are equal": (
        "state.json",
        lambda path: path.write_text(json.dumps(dict(reversed(STATE.items())))),
    ),
    "state.json: 1 of 3 items: step: 2, 2.0": (
        "state.json",
        lambda path: path.write_text(json.dumps({**STATE, "step": 2.0})),
    ),
    "0.png: 1 of 3 items: pixels by up to 255": ("0.png", lambda path: save_picture(path, "yellow", prompt="a dog")),
    "0.png: 1 of 3 items: text of prompt: a dog, a cat": (
        "0.png",
        lambda path: save_picture(path, "red", prompt="a cat"),
    ),
    "README.md: other bytes": ("README.md", lambda path: path.write_text("# Another card")),
    "README.md: only in the first": ("README.md", lambda path: path.unlink()),
    "logs/a.txt: only in the second": (
        "logs/a.txt",
        lambda path: (path.parent.mkdir(), path.write_text("")),
    ),
}


@pytest.mark.parametrize("line", CHANGES)
def test_a_difference_of_any_kind_is_one_line(folders: tuple[Path, Path], line: str) -> None:
    name, change = CHANGES[line]
    change(folders[1] / name)
    [found] = compare_folders(*folders)
    assert found.startswith(line)


def test_the_starting_times_in_the_names_of_logs_are_no_difference(tmp_path: Path) -> None:
    for folder, second in (("one", 17), ("two", 18)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"vdlrecords.{second}.log").write_bytes(b"")
    assert list(compare_folders(tmp_path / "one", tmp_path / "two")) == []


def test_the_working_tree_is_exported_without_what_git_ignores(tmp_path: Path) -> None:
    export_revision(None, tmp_path / "code")
    assert (tmp_path / "code/train_dreambooth.py").read_text() == (ROOT / "train_dreambooth.py").read_text()
    assert not list((tmp_path / "code").rglob("*.pyc")) and not (tmp_path / "code/.git").exists()


def test_the_runs_reach_every_command() -> None:
    lines = " ".join(RUNS.values())
    commands = ("train_dreambooth.py", "infer.py", "dreambooth.export", "dreambooth.metrics", "dreambooth.identifier")
    assert all(each in lines for each in commands)
