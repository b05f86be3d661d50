"""The processor: the width of its matrix products, the cores that this process may use, and work shared among them.

A large network computes each product with a thread on every core. In a small one, the threads wait for each other more
than they compute. So processes share its work, each with one thread: the pictures of a drawing, the examples of an
update. They are forks of this process, and so have its networks at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import re
import signal
import sys
import warnings
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from dreambooth.system import console, processes, threads
from dreambooth.system.devices import cards
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection

    from paddle import Tensor

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MKL_PATH = "MKL_DEBUG_CPU_TYPE"
_WIDE = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_MAKERS = ("AuthenticAMD", "GenuineIntel")
_SMALL = 50_000_000  # weights, up to which workers are faster than threads
_environment: dict[str, str] = {}  # as it was before Paddle was imported


def set_up() -> None:
    """Choose MKL's code path, before Paddle is imported.

    Paddle's CPU build brings an MKL of 2019, which selects its code by the processor's maker, and runs the oldest on
    AMD's. MKL_DEBUG_CPU_TYPE selects the code for the processor's own width.
    """
    if "paddle" not in sys.modules:  # which changes it
        _environment.update(os.environ)
    if sys.platform == "linux" and (path := mkl_path(_processor())):
        os.environ.setdefault(_MKL_PATH, path)


def environment() -> dict[str, str]:
    """Return the environment for another process: without the number of threads that Paddle's import sets."""
    added = {threads.VARIABLE} - _environment.keys() if "paddle" in sys.modules else set()
    return {name: value for name, value in os.environ.items() if name not in added}


def mkl_path(processor: str) -> str | None:
    """Return the value of MKL_DEBUG_CPU_TYPE for a processor, given as /proc/cpuinfo describes it.

    A path that the processor does not have would end in an illegal instruction.
    """
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", processor, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    if not any(maker in processor for maker in _MAKERS):
        return None
    if flags >= _WIDE:
        return "7"
    return "5" if {"avx2", "fma"} <= flags else None


class Split(NamedTuple):
    """How a process uses its cores: forks of it that share the work, and the threads of each. On a card, no threads."""

    workers: int
    threads: int


def use_cores(parameters: Iterable[Tensor]) -> Split:
    """Choose the split for a network with these parameters, and set the threads."""
    if processes.is_on_gpu():
        return Split(1, 0)
    chosen = split(sum(parameter.size for parameter in parameters))
    threads.use(chosen.threads)
    return chosen


def is_small(parameters: Iterable[Tensor]) -> bool:
    """Check whether a network is so small that processes, and batches, use the cores better than threads."""
    return bool(sum(parameter.size for parameter in parameters) <= _SMALL)


def split(weights: int) -> Split:
    """Choose the split for a network with so many weights.

    Each worker has a copy of the network's activations, and of its gradients while it trains. The processes of a launch
    are workers already.
    """
    budget = _own_threads() or max(1, cores() // max(1, int(os.environ.get("PADDLE_LOCAL_SIZE", "1"))))
    can_share = weights <= _SMALL and hasattr(os, "fork") and "PADDLE_LOCAL_SIZE" not in os.environ
    return Split(min(budget, cores()), 1) if can_share else Split(1, budget)


def _own_threads() -> int:
    """Return the user's OMP_NUM_THREADS, or 0. Paddle sets it to 1 itself, in the launcher for all its processes."""
    text = _environment.get(threads.VARIABLE, "").partition(",")[0].strip()  # OpenMP's form has a number for each level
    own = int(text) if text.isdecimal() else 0
    return 0 if own == 1 and "PADDLE_LOCAL_SIZE" in os.environ else own


def cores() -> int:
    """Count the cores that this process may use: those of its affinity, within the limits of its control groups."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = _limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, min([available, *map(int, limits)]))


def _limits(groups: Path, root: Path) -> list[float]:
    """List the limits of the control groups that this process is in, in cores; of version 1 and 2."""
    found = []
    for line in text_of(groups).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for folder in (root, root / "cpu"):
            # a container often sees its own group as the root
            inside = folder / group.lstrip("/")
            for place in (inside, *inside.parents):
                if place.is_relative_to(folder):
                    found += _limit(place)
    return found


def _limit(group: Path) -> list[float]:
    """Read the limit of one group, if it has one."""
    limits = []
    # of version 2: "max 100000" or "150000 100000" in one file; of version 1: a file for each number
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        words = " ".join(text_of(group / name) for name in names).split()
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            limits.append(int(words[0]) / int(words[1]))
    return limits


def text_of(file: Path) -> str:
    """Return the text of one of the system's files; empty where it can't be read."""
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


@functools.cache
def _processor() -> str:
    return text_of(Path("/proc/cpuinfo"))


def processor_name() -> str:
    """Return the processor's name."""
    model = re.search(r"^model name\s*:\s*(.+)$", _processor(), re.MULTILINE)
    return model[1].strip() if model else platform.processor() or platform.machine()


def describe(split: Split) -> dict[str, Any]:
    """Return what the last bits of a result depend on, beside its settings and the libraries."""
    if not split.threads:
        return cards.describe()
    path = os.environ.get(_MKL_PATH, "")
    return {
        "processor": processor_name(),
        "mkl": {"5": "AVX2", "7": "AVX-512"}.get(path, path),
        "workers": split.workers,
        "threads": split.threads,
    }


def in_words(machine: Mapping[str, Any]) -> str:
    """Return the result of describe() as a text."""
    if "card" in machine:
        return cards.in_words(machine)
    path = f" ({machine['mkl']})" if machine["mkl"] else ""
    counts = [f"{machine[each]} {each}" for each in ("workers", "threads") if machine[each] > 1] or ["1 thread"]
    return f"{machine['processor']}{path}, {' of '.join(counts)}"


def shared(function: Callable[[_Item], _Result], items: Sequence[_Item], workers: int) -> Iterator[_Result]:
    """Yield function(item) for each item, in order, computed by some forks of this process."""
    workers = min(workers, len(items))
    if workers < 2:
        yield from map(function, items)
        return

    def send_results(share: Sequence[_Item], connection: Connection) -> None:
        for item in share:
            connection.send((function(item), None))

    with contextlib.ExitStack() as stack:
        shares = [items[first::workers] for first in range(workers)]
        connections = [begin(stack, functools.partial(send_results, share)) for share in shares]
        for index, item in enumerate(items):
            number = index % workers
            try:
                result = receive(connections[number])
            except Lost as lost:
                lost.tell()
                connections[number] = None
                result = function(item)
            yield result


class Lost(Exception):
    """A fork that has not begun, or has ended before its work; the first process does it instead."""

    def tell(self) -> None:
        """Warn of it, if it is news."""
        if str(self):
            console.warn(f"{self}; the first process does its share")


def begin(stack: contextlib.ExitStack, work: Callable[[Connection], None]) -> Connection | None:
    """Begin a fork that ends with the stack; None where the system allows no more of them."""
    try:
        return stack.enter_context(forked(work))
    except OSError as error:
        Lost(f"a worker can't be started ({error.strerror})").tell()
        return None


@contextlib.contextmanager
def forked(work: Callable[[Connection], None]) -> Iterator[Connection]:
    """Run work(connection) in a fork of this process, which ends with the block; yield the connection's other end.

    The fork sends pairs (result, error), which receive() takes apart.
    """
    ours, theirs = Pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the fork ignores them
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns where there are threads: those of a log's writer, whose locks the fork does not need
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
        if not process:
            _be_forked(work, theirs)
    except OSError:
        ours.close()
        theirs.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        with contextlib.suppress(ChildProcessError):  # the system itself takes ended processes where SIGCHLD is ignored
            if os.waitpid(process, os.WNOHANG) == (0, 0):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)


def _be_forked(work: Callable[[Connection], None], connection: Connection) -> NoReturn:
    """Do the work of a fork, and end it: silently, since the first process handles signals and prints."""
    try:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # end with the first process
        threads.use(1)
        work(connection)
    except MemoryError:
        pass  # the first process has room for one share at a time
    except BaseException as error:
        # another error might need more to be made again than its text
        is_plain = isinstance(error, BadInput) or type(error).__module__ == "builtins"
        with contextlib.suppress(Exception):
            connection.send((None, error if is_plain else RuntimeError(f"{type(error).__name__}: {error}")))
    finally:
        os._exit(0)


def receive(connection: Connection | None) -> Any:  # noqa: ANN401  whatever the fork sends
    """Return the next result of a fork, or raise its error here; Lost where the fork is not there, with news once."""
    if connection is None:
        raise Lost
    try:
        result, error = connection.recv()
    except (EOFError, OSError):
        raise Lost("a worker has ended, perhaps for want of memory") from None
    if error is not None:
        raise error
    return result
