"""What is a full disk: the system's errors, the libraries' own, and any failure where no space is left."""

import errno
import os

import numpy as np
import pytest

from dreambooth.system import disk
from dreambooth.system.errors import BadInput, Stopped

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def caused(error, cause=None, context=None, hidden=False):
    error.__cause__, error.__context__, error.__suppress_context__ = cause, context, hidden
    return error


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError(errno.EFBIG, os.strerror(errno.EFBIG), "file"),
        OSError("73728 requested and 31162 written"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("(Fatal) cannot write: Disk quota exceeded"),
        caused(ValueError("it can't be saved"), cause=FULL),
        caused(ValueError("it can't be saved"), context=caused(KeyError("x"), context=FULL)),
        disk.DiskFull("x"),
    ],
)
def test_full(error):
    assert disk.reason(error).startswith("the disk is full")


@pytest.mark.parametrize(
    "error",
    [
        None,
        OSError(errno.EACCES, os.strerror(errno.EACCES)),
        OSError("broken data stream when reading image file"),
        ValueError("73728 requested and 31162 written"),
        caused(ValueError("x"), context=FULL, hidden=True),
    ],
)
def test_not_full(error):
    assert disk.reason(error) == ""


def test_numpys_own_words(tmp_path):
    """NumPy's tofile loses the number of the system's error; should a release keep it, _SHORT_WRITE can go."""
    with pytest.raises(OSError) as caught, open("/dev/full", "wb", buffering=0) as file:
        np.zeros(100_000).tofile(file)
    assert caught.value.errno is None and disk.reason(caught.value)


def test_safetensors_own_words(small_disk):
    from safetensors.numpy import save_file

    small_disk.fill(0)
    with pytest.raises(Exception) as caught:
        save_file({"x": np.zeros(100_000)}, small_disk / "file")
    assert not isinstance(caught.value, OSError) or caught.value.errno != errno.ENOSPC
    assert disk.reason(caught.value)


def test_where_no_space_is_left_any_failure_of_a_writer_is_the_disks(tmp_path, monkeypatch):
    for free, expected in ((10_000, True), (10**9, False), (None, False)):
        monkeypatch.setattr(disk, "free_space", lambda folder, free=free: free)
        assert bool(disk.reason_in(tmp_path, RuntimeError("(External) unknown"))) is expected
        for other in (BadInput("x"), Stopped("x", 1), MemoryError(), KeyboardInterrupt()):
            assert not disk.reason_in(tmp_path, other)


def test_free_space(tmp_path, monkeypatch):
    free = disk.free_space(tmp_path)
    assert free > 0 and disk.missing_space(tmp_path, free + 10**12) > 10**11 and disk.missing_space(tmp_path, 0) == 0
    assert disk.free_space(tmp_path / "absent/below") == pytest.approx(free, rel=0.5)  # where it will be
    nothing = os.statvfs_result([4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255])
    monkeypatch.setattr(os, "statvfs", lambda folder: nothing)
    assert disk.free_space(tmp_path) is None and disk.missing_space(tmp_path, 10**18) == 0


def test_the_line():
    assert str(disk.DiskFull("out/checkpoint-4")) == "out/checkpoint-4: the disk is full"
    error = disk.DiskFull("out", 1_000_001, "the earlier one is whole")
    assert str(error) == "out: the disk is full, 2 MB are missing; the earlier one is whole" and error.code == 1


@pytest.mark.parametrize("name", ["new", "new/below/it", "."])
def test_a_folder_that_can_be_made_is_not_left_behind(tmp_path, name):
    disk.check_writable(tmp_path / name, "--output_dir")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/below", "x" * 300, "/proc/new", "link", "link/below"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="--output_dir .*: it can't be written there"):
        disk.check_writable(tmp_path / name, "--output_dir")
