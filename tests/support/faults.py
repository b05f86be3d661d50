"""Commands in processes of their own that are killed, stopped and damaged from outside."""

import os
import signal
import time
from pathlib import Path

from support import forks
from support.commands import ROOT
from support.disks import CHANGES

SECONDS = 120  # a bound on everything that is awaited

# runs a command, and kills it with the signal that cannot be caught before a change of a folder, counted from 0
KILLED = f"""
import itertools, os, runpy, signal, sys
folder, number, line = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
steps = itertools.count()

def kill(event, arguments):
    if event not in {CHANGES!r}:
        return
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        return
    if any(isinstance(each, (str, os.PathLike)) and str(each).startswith(folder) for each in arguments):
        if next(steps) == number:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
if line[0] == "-m":
    sys.argv = line[1:]
    runpy.run_module(line[1], run_name="__main__", alter_sys=True)
else:
    sys.argv = line
    runpy.run_path(line[0], run_name="__main__")
"""


class Running:
    """A command that runs in a fork, with its text in files."""

    def __init__(self, line, folder, name="run", **environment):
        self.line = [str(each) for each in line]
        self._files = [Path(folder) / f"{name}.{kind}" for kind in ("out", "err")]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self.pid = forks.begin(self.line, out, err, {"PYTHONUNBUFFERED": "1", **environment})
        self.code = None

    @property
    def out(self):
        return self._files[0].read_text(errors="replace")

    @property
    def err(self):
        return self._files[1].read_text(errors="replace")

    @property
    def text(self):
        return self.out + self.err

    def has_ended(self):
        if self.code is None:
            done, status, usage = os.wait4(self.pid, os.WNOHANG)
            if done:
                self.peak = usage.ru_maxrss * 1024  # bytes
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def send(self, number):
        os.kill(self.pid, number)

    def wait_for(self, happens, seconds=SECONDS):
        """Wait until something is true; return it. A command that ends before is a failure."""
        end = time.monotonic() + seconds
        while not (found := happens()):
            assert not self.has_ended(), f"{self.line} ended with {self.code}: {self.text}"
            assert time.monotonic() < end, f"{self.line}, after {seconds} s: {self.text}"
            time.sleep(0.005)
        return found

    def end(self, seconds=SECONDS):
        """Wait for the end; return the exit code, which is negative after a signal."""
        limit = time.monotonic() + seconds
        while not self.has_ended():
            if time.monotonic() > limit:
                self.kill()
                raise AssertionError(f"{self.line} has not ended after {seconds} s: {self.text}")
            time.sleep(0.005)
        return self.code

    def kill(self):
        if not self.has_ended():
            self.send(signal.SIGKILL)
            self.end()


def run_killed(folder, number, line, place):
    """Run a command that is killed before the change number `number` of a folder; whether it came to that."""
    script = Path(place) / "killed.py"
    script.write_text(KILLED)
    running = Running([script, folder, number, *line], place, "killed")
    code = running.end(300)
    assert code in (0, -signal.SIGKILL), f"killed at change {number} of {folder}: {running.text}"
    return code != 0


def one_line(err):
    """The one line of an error in a command's text; nothing else may be an error."""
    assert "Traceback" not in err, err
    errors = [each for each in err.splitlines() if each.startswith("error")]
    assert len(errors) == 1, err
    return errors[0]


def leftovers(folder):
    """What commands have not removed from a folder, and those below it."""
    return sorted(str(path) for path in Path(folder).rglob(".*"))


def contents(folder, *but):
    """{relative path: bytes} of all files in a folder, except those below some names."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if name.split("/")[0] not in but}


__all__ = ["KILLED", "ROOT", "SECONDS", "Running", "contents", "leftovers", "one_line", "run_killed"]
