"""Disks that are small and fill up, and processes that are killed as they write."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

FILLER = "filler"
CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link")


class _Killed(BaseException):
    """Ends what runs, as SIGKILL would."""


class _Killer:
    """Counts the changes of the disk. From a number on, none is possible any more: not to those who clean up either."""

    left = None  # changes until then; None: no limit

    def __call__(self, event, arguments):
        if self.left is None or event not in CHANGES:
            return
        if self.left == 0:
            raise _Killed
        self.left -= 1


_killer = _Killer()
sys.addaudithook(_killer)


def killed_at(number, act):
    """Run `act` as if it were killed before its change number `number` of the disk; False: it ended earlier.

    A process of its own, with a real signal, takes a hundred times as long; tests/faults has those.
    """
    _killer.left = number
    try:
        act()
        return False
    except _Killed:
        return True
    finally:
        _killer.left = None


class SmallDisk(type(Path())):
    """The folder where a small file system is mounted."""

    def fill(self, left):
        """Leave so many bytes free, rounded down to whole pages."""
        (self / FILLER).unlink(missing_ok=True)
        found = os.statvfs(self)
        pages = max(0, found.f_bavail - left // found.f_frsize)
        (self / FILLER).write_bytes(b"x" * (pages * found.f_frsize))


def mounted(folder, megabytes):
    """Mount a tmpfs of that size; a generator for a fixture, which is skipped where this user may not mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk needs the right to mount one ({getattr(error, 'stderr', error)})")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def run_out(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def hidden(folder):
    """List the files in a folder, and below it, that were not finished."""
    return [str(path) for path in folder.rglob(".*")]
