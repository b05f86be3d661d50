"""Files and folders are whole or absent: killed at every step, on a full disk, and with two writers at once."""

import errno
import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.disks import killed_at, run_out

from dreambooth.files import atomic
from dreambooth.system import disk


def visible(folder):
    """The files of a folder that do not count as hidden, as {name: text}."""
    paths = [path for path in folder.rglob("*") if not any(part[0] == "." for part in path.relative_to(folder).parts)]
    return {str(path.relative_to(folder)): path.read_text() for path in paths if path.is_file()}


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def write_folder(path, text):
    with atomic.whole_folder(path) as temporary:
        (temporary / "part").mkdir()
        (temporary / "part/weights").write_text(text)
        (temporary / "config").write_text(text)


def write_file(path, text, **options):
    with atomic.whole_file(path, **options) as temporary:
        temporary.write_text(text)


def test_a_file_killed_at_any_step_is_the_old_or_the_new_one(tmp_path):
    for number in itertools.count():
        folder = tmp_path / str(number)
        write_file(folder / "file", "old")
        killed = killed_at(number, lambda folder=folder: write_file(folder / "file", "new"))
        assert visible(folder) in ({"file": "old"}, {"file": "new"})
        atomic.clean(folder)
        assert not hidden(folder)
        if not killed:
            break
    assert number > 3 and visible(folder) == {"file": "new"}


@pytest.mark.parametrize("write, name", [(write_file, "file"), (write_folder, "here")])
def test_all_is_on_the_disk_itself_before_it_has_its_name_and_the_name_too(tmp_path, monkeypatch, write, name):
    events = []

    def flushed(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append((path.name if path.name in ("weights", "config", "part") else path.parent.name, path.is_dir()))

    monkeypatch.setattr(os, "fsync", flushed)
    for method in ("rename", "replace"):
        own = getattr(Path, method)
        monkeypatch.setattr(Path, method, lambda *paths, own=own: (events.append("renamed"), own(*paths))[1])
    write(tmp_path / name, "new")
    before, after = events[: events.index("renamed")], events[events.index("renamed") + 1 :]
    written = {"weights", "config"} if write is write_folder else {tmp_path.name}
    assert written <= {name for name, is_folder in before if not is_folder}
    assert [is_folder for _, is_folder in after] == [True]


def test_a_folder_killed_at_any_step_is_the_old_or_the_new_one_after_the_next_start(tmp_path):
    seen = set()
    for number in itertools.count():
        folder = tmp_path / str(number)
        write_folder(folder / "here", "old")
        killed = killed_at(number, lambda folder=folder: write_folder(folder / "here", "new"))
        atomic.clean(folder)
        assert not hidden(folder)
        found = visible(folder)
        assert found in [{"here/part/weights": text, "here/config": text} for text in ("old", "new")]
        seen.add(found["here/config"])
        if not killed:
            break
    assert number > 10 and seen == {"old", "new"}


def test_a_new_folder_killed_at_any_step_is_whole_or_absent(tmp_path):
    for number in itertools.count():
        folder = tmp_path / str(number)
        folder.mkdir()
        killed = killed_at(number, lambda folder=folder: write_folder(folder / "here", "new"))
        assert visible(folder) in ({}, {"here/part/weights": "new", "here/config": "new"})
        if not killed:
            break
    assert number > 5


def test_the_next_writer_alone_puts_back_what_was_to_be_replaced(tmp_path):
    write_folder(tmp_path / "here", "old")
    (tmp_path / "here").rename(tmp_path / ".here.replaced")
    with pytest.raises(ZeroDivisionError), atomic.whole_folder(tmp_path / "here"):
        raise ZeroDivisionError
    assert visible(tmp_path)["here/config"] == "old" and not hidden(tmp_path)


def test_a_folder_removed_is_whole_or_absent(tmp_path):
    for number in itertools.count():
        folder = tmp_path / str(number)
        write_folder(folder / "here", "old")
        killed = killed_at(number, lambda folder=folder: atomic.remove_folder(folder / "here"))
        assert len(visible(folder)) in (0, 2)
        atomic.clean(folder)
        assert not hidden(folder)
        if not killed:
            break
    assert number > 3 and not visible(folder)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, error):
    write_file(tmp_path / "file", "old")
    write_folder(tmp_path / "folder", "old")
    before = visible(tmp_path)
    with pytest.raises(error), atomic.whole_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
        raise error
    with pytest.raises(error), atomic.whole_folder(tmp_path / "folder") as temporary:
        (temporary / "config").write_text("new")
        raise error
    assert visible(tmp_path) == before and not hidden(tmp_path)


def test_everything_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    events = []
    flush, rename = atomic.flush, Path.rename
    monkeypatch.setattr(atomic, "flush", lambda path: (events.append(path.name), flush(path)))
    monkeypatch.setattr(Path, "rename", lambda path, to: (events.append("renamed"), rename(path, to)))
    write_folder(tmp_path / "here", "new")
    first = events.index("renamed")
    assert {"weights", "config", "part"} < set(events[:first]) and events[-1] == tmp_path.name


def test_two_writers_of_one_name_have_a_path_each(tmp_path):
    with atomic.whole_file(tmp_path / "file") as one, atomic.whole_file(tmp_path / "file") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert visible(tmp_path) == {"file": "one"} and not hidden(tmp_path)


def test_a_file_that_is_there_stays_where_it_is_not_to_be_replaced(tmp_path, monkeypatch):
    write_file(tmp_path / "file", "old", replace=False)
    write_file(tmp_path / "file", "new", replace=False)
    assert visible(tmp_path) == {"file": "old"} and not hidden(tmp_path)

    def no_links(*arguments):
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    write_file(tmp_path / "file", "new", replace=False)
    write_file(tmp_path / "another", "new", replace=False)
    assert visible(tmp_path) == {"file": "old", "another": "new"} and not hidden(tmp_path)


def test_what_a_living_process_is_writing_is_not_cleaned_away(tmp_path):
    with atomic.whole_file(tmp_path / "file") as file, atomic.whole_folder(tmp_path / "folder") as folder:
        atomic.clean(tmp_path)
        assert file.exists() and folder.exists()
    write_folder(tmp_path / "folder", "old")

    def remove(path, of=atomic.remove):
        if path.name == ".folder.replaced" and path.exists():
            atomic.clean(tmp_path)
            assert path.exists()
        of(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "remove", remove)
        write_folder(tmp_path / "folder", "new")
    assert visible(tmp_path)["folder/config"] == "new" and not hidden(tmp_path)


def test_without_locks_what_is_a_day_old_is_abandoned(tmp_path, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(atomic.fcntl, "flock", no_locks)
    for name in (".young.0123abcd.unfinished", ".old.0123abcd.unfinished"):
        (tmp_path / name).write_text("")
    os.utime(tmp_path / ".old.0123abcd.unfinished", (time.time() - 90_000,) * 2)
    write_folder(tmp_path / ".here.replaced", "old")
    atomic.clean(tmp_path)
    assert hidden(tmp_path) == [".young.0123abcd.unfinished"] and visible(tmp_path)["here/config"] == "old"
    write_folder(tmp_path / "here", "new")
    assert visible(tmp_path)["here/config"] == "new"


def test_a_device_is_written_to_and_a_link_is_followed(tmp_path):
    write_file(Path("/dev/null"), "nothing")
    assert Path("/dev/null").is_char_device()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder/file")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "folder/file").read_text() == "new"


def test_a_file_has_the_usual_permissions_and_a_long_name_is_fine(tmp_path):
    path = tmp_path / ("长" * 80)
    write_file(path, "new")
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_process_cleans_each_folder_in_which_it_writes_and_nothing_of_anybody_elses(tmp_path):
    left = [".5-sha.png.0123abcd.unfinished", ".5.unfinished", ".checkpoint-4.unfinished", ".pipeline.unfinished"]
    mine = [".thesis.unfinished", "0123abcd.unfinished", ".replaced"]
    for name in left + mine:
        (tmp_path / name).write_text("")
    write_file(tmp_path / "file", "new")
    assert {path.name for path in tmp_path.iterdir()} == {*mine, "file"}


def test_a_picture_keeps_its_pixels_and_texts_in_any_script(tmp_path):
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    atomic.write_picture(tmp_path / "a.png", picture, {"prompt": "un café, 文", "seed": 3})
    with Image.open(tmp_path / "a.png") as read:
        assert read.text == {"prompt": "un café, 文", "seed": "3"}
        assert np.array_equal(np.asarray(read), np.asarray(picture))


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"prompt": "一只狗", "steps": [1, 2.5, None]}
    atomic.write_json(tmp_path / "new/file.json", value)
    assert atomic.read_json(tmp_path / "new/file.json") == value
    assert "一只狗" in (tmp_path / "new/file.json").read_text(encoding="utf-8")
    for text in ("{", "[" * 100_000, "\xff", "[]", "null", '"text"'):
        (tmp_path / "bad.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError):
            atomic.read_json(tmp_path / "bad.json")


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_is_one_line_and_what_was_there_stays(tmp_path, there):
    if there:
        write_file(tmp_path / "file", "old")
    with pytest.raises(disk.DiskFull) as caught, atomic.whole_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        run_out()
    whole = "the earlier one is whole" if there else "nothing of it is left"
    assert str(caught.value) == f"{tmp_path}/file: the disk is full; {whole}" and caught.value.code == 1
    assert visible(tmp_path) == ({"file": "old"} if there else {}) and not hidden(tmp_path)


@pytest.mark.parametrize("step", ["flush", "mkdir", "rename"])
def test_a_disk_can_be_full_at_any_step(tmp_path, monkeypatch, step):
    write_folder(tmp_path / "here", "old")
    monkeypatch.setattr(
        *{"flush": (atomic, "flush"), "mkdir": (Path, "mkdir"), "rename": (Path, "rename")}[step], run_out
    )
    with pytest.raises(disk.DiskFull, match=r"here: the disk is full; the earlier one is whole$"):
        write_folder(tmp_path / "here", "new")
    monkeypatch.undo()
    assert visible(tmp_path)["here/config"] == "old" and not hidden(tmp_path)


def test_a_size_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_space", lambda folder: 3_000_000)
    with pytest.raises(disk.DiskFull) as caught, atomic.whole_folder(tmp_path / "here", size=5_500_000):
        pytest.fail("it has begun to write")
    assert str(caught.value) == f"{tmp_path}/here: the disk is full, 3 MB are missing; nothing of it is left"
    with atomic.whole_folder(tmp_path / "here", size=3_000_000):
        pass


def test_what_is_missing_is_counted_where_another_process_took_the_space(tmp_path, monkeypatch):
    free = iter([9_000_000, 2_000_000])
    monkeypatch.setattr(disk, "free_space", lambda folder: next(free))
    with pytest.raises(disk.DiskFull, match="full, 3 MB are missing;"), atomic.whole_file(tmp_path / "file", 5_000_000):
        run_out()


def test_a_full_disk_inside_a_folder_names_the_folder(tmp_path):
    full = pytest.raises(disk.DiskFull, match=r"/here: the disk")
    with full, atomic.whole_folder(tmp_path / "here") as temporary, atomic.whole_file(temporary / "config"):
        run_out()


@pytest.mark.parametrize("left", [*range(0, 64, 4), 64, 128, 300])
def test_a_small_disk_that_fills_up(small_disk, left):
    """`left`: KiB of free space."""
    write_folder(small_disk / "here", "old")
    write_file(small_disk / "file", "old")
    before = visible(small_disk)
    small_disk.fill(left * 1024)

    def attempt(write, *arguments):
        try:
            write(*arguments)
            return True
        except disk.DiskFull as error:
            assert "the disk is full" in str(error) and "the earlier one is whole" in str(error)
            return False

    text = "new" * 30_000
    done = {
        name
        for name, write in (("file", write_file), ("here", write_folder))
        if attempt(write, small_disk / name, text)
    }
    for name, content in visible(small_disk).items():
        if name != "filler":
            assert content == (text if name.split("/")[0] in done else before[name])
    assert not hidden(small_disk)
    assert done == ({"file", "here"} if left == 300 else {"file"} if left == 128 else set())
