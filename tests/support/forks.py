"""Commands in forks of the tests' process: as in a new one, but that the libraries are there already."""

import atexit
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import weakref
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("dreambooth", "miniworld", "benchmarks")
SECONDS = 300


def run(line):
    """Run `python LINE` from the project's folder, and return the CompletedProcess, with its text."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if not child:
            _be_command(line, out.fileno(), err.fileno())
        code = _wait(child, line)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([sys.executable, *line], code, *texts)


def _wait(child, line):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise subprocess.TimeoutExpired(line, SECONDS)


def _be_command(line, out, err):
    """Become the command, and end with its exit code."""
    code = 1
    try:
        _forget_the_tests(out, err)
        try:
            if line[0] == "-m":
                sys.argv = line[1:]
                runpy.run_module(line[1], run_name="__main__", alter_sys=True)
            else:
                sys.argv = line
                runpy.run_path(line[0], run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
        weakref.finalize._exitfunc()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _forget_the_tests(out, err):
    """Drop what a new process would not have: pytest's streams, handlers and folders, and the project's modules."""
    os.chdir(ROOT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    atexit._clear()
    weakref.finalize._registry.clear()
    warnings.resetwarnings()
    for action, kind in (("ignore", ResourceWarning), ("ignore", ImportWarning), ("ignore", DeprecationWarning)):
        warnings.simplefilter(action, kind)
    for name in list(sys.modules):
        if name.partition(".")[0] in (*PACKAGES, "train_dreambooth", "infer"):
            del sys.modules[name]
    sys.path[:] = [str(ROOT), *(each for each in sys.path if each not in (str(ROOT), str(ROOT / "tests")))]
    from dreambooth.system import machine

    machine._environment.update(os.environ)  # what it notes before Paddle is imported
