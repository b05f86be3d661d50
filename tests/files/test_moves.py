"""A result moves into its folder: killed at every step, one of the two is there, and never a mix that loads."""

import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest
from support.disks import killed_at, run_out

from dreambooth.files import atomic, moves
from dreambooth.system import disk
from dreambooth.system.errors import BadInput

LORA, INDEX = "lora.safetensors", "model_index.json"
LAST = (LORA, INDEX)
RESULTS = {
    "pipeline": ("unet", "vae", INDEX),
    "larger": ("unet", "vae", "feature_extractor", INDEX),
    "lora": (LORA,),
    "both": ("unet", LORA, INDEX),
}
PAIRS = [pair for pair in itertools.product(RESULTS, RESULTS)]


def write(folder, result, text):
    """Write a result whose every file says `text`, with the notes that go with it."""
    owned = [part for parts in RESULTS.values() for part in parts]
    with moves.whole_parts(folder, LAST, owned, "the result") as temporary:
        for part in (*RESULTS[result], "training_args.json"):
            if "." in part:
                (temporary / part).write_text(text)
            else:
                (temporary / part).mkdir()
                (temporary / part / "weights").write_text(text)
                (temporary / part / "config").write_text(text)


def texts(folder):
    """All that is in a folder, hidden files apart: {path: text}."""
    paths = [path for path in folder.rglob("*") if path.relative_to(folder).parts[0][0] != "."]
    return {str(path.relative_to(folder)): path.read_text() for path in paths if path.is_file()}


def loaded(folder):
    """What a library that knows nothing of an interrupted move would load; fails where it would be a mix."""
    found = texts(folder)
    if not any(name in found for name in LAST):
        return None
    inside = {path: text for path, text in found.items() if path != "notes.txt"}
    assert len(set(inside.values())) == 1, inside
    return next(iter(inside.values()))


def names(result):
    parts = (*RESULTS[result], "training_args.json")
    return {path for part in parts for path in ([part] if "." in part else [f"{part}/weights", f"{part}/config"])}


def made(folder, result):
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    write(folder, result, "old")
    return folder


@pytest.mark.parametrize("earlier, later", PAIRS)
def test_a_move_killed_at_any_step_never_mixes_and_is_completed(tmp_path, earlier, later):
    seen = set()
    for number in itertools.count():
        folder = made(tmp_path / str(number), earlier)
        killed = killed_at(number, lambda folder=folder: write(folder, later, "new"))
        before = loaded(folder)
        moves.finish_move(folder)
        after = loaded(folder)
        assert after in ("old", "new") and (before is None or before == "old" or after == "new")
        seen.add((before, after))
        result = earlier if after == "old" else later
        assert texts(folder) == {**dict.fromkeys(names(result), after), "notes.txt": "mine"}
        atomic.clean(folder)
        assert {path.name for path in folder.iterdir()} == {*RESULTS[result], "training_args.json", "notes.txt"}
        if not killed:
            break
    assert {("old", "old"), ("old", "new"), (None, "new"), ("new", "new")} == seen and number > 10


def test_completing_a_move_can_be_killed_at_any_step_too(tmp_path):
    steps = itertools.count()
    for number in steps:
        folder = made(tmp_path / str(number), "larger")
        if not killed_at(number, lambda folder=folder: write(folder, "both", "new")):
            break
        for again in itertools.count():
            killed = killed_at(again, lambda folder=folder: moves.finish_move(folder))
            loaded(folder)
            if not killed:
                break
        assert loaded(folder) in ("old", "new") and not (folder / ".pipeline.new").exists()


def test_a_folder_in_which_a_move_was_stopped_and_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    folder = stopped(tmp_path)

    def read_only(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "rename", read_only)
    with pytest.raises(BadInput, match=f"^--model_path {folder}: a run was stopped .*Permission denied.*; make"):
        moves.finish_move(folder, "--model_path")


def stopped(tmp_path):
    """A folder in which a process was killed when the earlier result did not load any more."""
    for number in itertools.count():
        folder = made(tmp_path / str(number), "larger")
        assert killed_at(number, lambda folder=folder: write(folder, "pipeline", "new"))
        if loaded(folder) is None:
            return folder


def test_a_full_disk_in_the_move_is_one_line_and_the_next_command_completes_it(tmp_path, monkeypatch):
    folder = made(tmp_path / "here", "pipeline")
    rename = Path.rename

    def full(path, to):
        return rename(path, to) if Path(to).name == ".pipeline.new" else run_out()

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(disk.DiskFull, match=r"here: the disk is full; the new parts are whole in .*\.pipeline\.new"):
        write(folder, "pipeline", "new")
    monkeypatch.undo()
    assert loaded(folder) is None
    moves.finish_move(folder)
    assert loaded(folder) == "new"


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_before_the_move_names_the_folder_and_leaves_the_earlier_result(tmp_path, there):
    folder = made(tmp_path / "here", "pipeline") if there else tmp_path / "here"
    whole = "the earlier one is whole" if there else "nothing of it is left"
    full = pytest.raises(disk.DiskFull, match=f"^the result: the disk is full; {whole}$")
    with full, moves.whole_parts(folder, LAST, [], "the result") as temporary:
        (temporary / INDEX).write_text("new")
        run_out()
    assert not there or loaded(folder) == "old"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["../outside", "/outside", "..", ".", "", "unet/../../outside", 3, None])
def test_a_strangers_folder_cannot_have_files_outside_of_it_removed(tmp_path, name):
    (tmp_path / "outside").write_text("mine")
    new = tmp_path / "here/.pipeline.new"
    new.mkdir(parents=True)
    for record in ({"last": [INDEX], "stale": [name]}, {"last": [name], "stale": []}, {"last": name, "stale": 1}):
        (new / "move.json").write_text(json.dumps(record).replace("/outside", str(tmp_path / "outside")))
        with pytest.raises(BadInput):
            moves.finish_move(tmp_path / "here", "--model_path")
    assert (tmp_path / "outside").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"last": [], "stale": [], "more": 1}'])
def test_a_strangers_record_is_refused_in_one_line(tmp_path, text):
    new = tmp_path / "here/.pipeline.new"
    new.mkdir(parents=True)
    (new / "move.json").write_text(text)
    with pytest.raises(BadInput) as caught:
        moves.finish_move(tmp_path / "here", "--model_path")
    assert "\n" not in str(caught.value)


def test_links_in_the_folder_lead_nowhere(tmp_path):
    folder, mine = made(tmp_path / "here", "pipeline"), tmp_path / "mine"
    mine.mkdir()
    (mine / "weights").write_text("mine")
    atomic.remove(folder / "unet")
    (folder / "unet").symlink_to(mine)
    write(folder, "pipeline", "new")
    assert (mine / "weights").read_text() == "mine" and loaded(folder) == "new"
    (mine / "move.json").write_text(json.dumps({"last": [], "stale": []}))
    (folder / ".pipeline.new").symlink_to(mine)
    moves.finish_move(folder)
    assert (mine / "weights").read_text() == "mine"


def test_many_processes_complete_one_move(tmp_path):
    folder = stopped(tmp_path)
    line = "import sys, pathlib; from dreambooth.files import moves; moves.finish_move(pathlib.Path(sys.argv[1]))"
    root = Path(moves.__file__).parents[2]
    children = [subprocess.Popen([os.sys.executable, "-c", line, str(folder)], cwd=root) for _ in range(6)]
    assert [child.wait() for child in children] == [0] * 6
    assert texts(folder) == {**dict.fromkeys(names("pipeline"), "new"), "notes.txt": "mine"}
