"""Disks that are small and fill up, and processes that are killed as they write."""

import errno
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FILLER = "filler"
CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link")


def killed_at(number, act):
    """Run `act` in a child that is killed before its change number `number` of the disk; False: it ended earlier."""
    child = os.fork()
    if child == 0:
        steps = itertools.count()

        def kill(event, arguments):
            if event in CHANGES and next(steps) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


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
