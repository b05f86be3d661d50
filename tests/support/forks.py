"""Commands in forks of the tests' process: as in a new one, but that the libraries are there already."""

import atexit
import contextlib
import os
import runpy
import signal
import socket
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
        code = _wait({begin(line, out, err)}, line)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([sys.executable, *line], code, *texts)


def launch(line, folder, processes):
    """Run a script on several processes as Paddle's launcher does; the first one's text, and a log of each."""
    *ends, master = [f"127.0.0.1:{port}" for port in free_ports(processes + 1)]
    environments = [
        {
            "PADDLE_MASTER": master,
            "PADDLE_TRAINER_ENDPOINTS": ",".join(ends),
            "PADDLE_CURRENT_ENDPOINT": ends[rank],
            "PADDLE_DISTRI_BACKEND": "gloo",
            "PADDLE_NNODES": "1",
            **dict.fromkeys(("PADDLE_TRAINERS_NUM", "PADDLE_LOCAL_SIZE", "PADDLE_GLOBAL_SIZE"), str(processes)),
            **dict.fromkeys(("PADDLE_TRAINER_ID", "PADDLE_LOCAL_RANK", "PADDLE_GLOBAL_RANK"), str(rank)),
        }
        for rank in range(processes)
    ]
    folder.mkdir(exist_ok=True)
    logs = [folder / f"workerlog.{rank}" for rank in range(processes)]
    code = run_together([line] * processes, logs, environments)
    return subprocess.CompletedProcess([sys.executable, *line], code, logs[0].read_text(), "")


def run_together(lines, logs, environments=None):
    """Run commands at the same time, with their text in files; return the first code that is not 0, which ends all."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(log.open("wb")) for log in logs]
        children = {begin(*each) for each in zip(lines, files, files, environments or [{}] * len(lines))}
        return _wait(children, lines[0])


def free_ports(count):
    """Find ports that no process listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def begin(line, out, err, environment=None):
    """Begin a command in a fork, with its text in files; return the fork's number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.environ.update(environment or {})
        _be_command(line, out.fileno(), err.fileno())
    return child


def _wait(children, line):
    """Wait for forks; return the first code that is not 0, at which the others are told to end."""
    code, end = 0, time.monotonic() + SECONDS
    while children and time.monotonic() < end:
        for child in list(children):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                children.remove(child)
                if status and not code:
                    code = os.waitstatus_to_exitcode(status)
                    for other in children:
                        os.kill(other, signal.SIGTERM)
        time.sleep(0.005)
    if not children:
        return code
    for child in children:
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
