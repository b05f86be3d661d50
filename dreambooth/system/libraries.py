"""The import of Paddle, PaddleNLP and PPDiffusers, quiet except for faults of a run."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.system import machine, processes, threads
from dreambooth.system.patches import attention_parts, layers, storage
from dreambooth.system.types import override

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator, Sequence

# of glibc's malloc.h, and of Linux's mman.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _MADV_HUGEPAGE = -1, -4, 14
_HUGE_PAGE = 1 << 21
_SECONDS_FOR_LIST = 10  # that the driver gets to list the cards
# what PaddleNLP imports and no pipeline needs: datasets, scikit-learn, pandas, a web server, …
_UNUSED_MODULES = {
    f"paddlenlp.{name}"
    for name in ("dataaug", "datasets", "embeddings", "losses", "metrics", "peft", "prompt", "seq2vec", "trainer")
}
_UNUSED_NAMES = {"paddlenlp.server": "SimpleServer", "paddlenlp.taskflow": "Taskflow"}
_HARMLESS = (
    "No ccache found",
    "Setuptools is replacing distutils",
    "pkg_resources is deprecated",
    # the library itself amends old settings and reads old folders
    "The configuration file of this scheduler",
    "The class CLIPFeatureExtractor is deprecated",
)


class _UnusedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules that nothing uses: those of the first table load on use, those of the second are empty."""

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in _UNUSED_NAMES:
            return importlib.machinery.ModuleSpec(fullname, self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if fullname in _UNUSED_MODULES else None
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec

    @override
    def exec_module(self, module: types.ModuleType) -> None:
        setattr(module, _UNUSED_NAMES[module.__name__], None)


def load(readers: storage.Readers, verbose: bool = False) -> None:
    """Import the libraries, quietly unless `verbose`, and replace their readers of weights.

    It takes several seconds, so check all arguments before. Afterwards SIGTERM has its default handler.
    """
    machine.set_up()
    _keep_memory()
    import zlib  # noqa: F401  before Paddle: 2.6.2 exports zlib symbols too, and a later import of zlib crashes

    if not verbose:
        os.environ.setdefault("GLOG_minloglevel", "2")
        for message in _HARMLESS:
            warnings.filterwarnings("ignore", message=f"(?s).*{message}")
    with _without_collection(), threads.variable_hidden(), _termination_held():
        import paddle  # noqa: F401

        _import_what_is_used()
        layers.convolve_in_bands()
        layers.add_biases_by_products()
        layers.recompute_without_random_state()
        attention_parts.attend_in_parts()
        storage.read_weights_only(readers)
        from huggingface_hub.utils import logging as hub_logging
        from paddlenlp.utils.log import logger
        from ppdiffusers.utils import logging as ppdiffusers_logging

    if not verbose:
        logger.set_level("ERROR")
        hub_logging.set_verbosity_error()
        ppdiffusers_logging.set_verbosity_error()
        ppdiffusers_logging.disable_progress_bar()


def _import_what_is_used() -> None:
    """Let PaddleNLP leave out its parts that no pipeline needs; call it before PaddleNLP is imported."""
    # Library: PaddleNLP 2.8.1.
    # Symptom: its import takes longer than Paddle's own, most of it for datasets, metrics and a server.
    # Remedy: those modules load when something first uses them; the server and Taskflow, whose classes PaddleNLP itself
    # imports, are empty.
    # Test: test_only_what_is_used_is_imported, test_the_libraries_alone_import_all_of_paddlenlp.
    if not any(isinstance(finder, _UnusedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _UnusedModules())


def _keep_memory() -> None:
    """Let glibc keep large blocks of memory for the next ones, and have them in huge pages.

    It would map large blocks one by one and return each at once, so the system clears their pages anew in every step:
    half of a full-size backward pass. The peak stays as it was. Huge pages spare another tenth of a step: a block of
    about the machine's size is reserved, marked and freed at once, so the heap grows into marked addresses. None of it
    is in memory before it is used.
    """
    own = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or own:
        return
    with contextlib.suppress(OSError, AttributeError, ValueError):  # another C library than glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
        if not _may_reserve():
            return
        size = int(0.9 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.madvise.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], [ctypes.c_void_p]
        if block := libc.malloc(size):
            start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
            libc.madvise(start, (block + size - start) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
            libc.free(block)


def release_memory() -> None:
    """Give the memory that is free back to the card or the system, before work whose blocks have other sizes."""
    if processes.is_on_gpu():
        import paddle

        paddle.device.cuda.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _may_reserve() -> bool:
    """Check whether addresses alone cost nothing: no limit counts them."""
    import resource  # not on Windows

    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    strict = Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip() == "2"
    return not strict and all(limit == resource.RLIM_INFINITY for limit in limits)


@contextlib.contextmanager
def _termination_held() -> Iterator[None]:
    """Hold SIGTERM back during the imports, both of which replace its handler; Paddle's prints a trace of its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Look for no garbage: an import makes many objects, and all of them stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def versions() -> dict[str, str]:
    """Return {package: version} of the packages that a result depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("paddlepaddle", "paddlepaddle-gpu", "ppdiffusers", "paddlenlp", "numpy", "Pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def card_name() -> str:
    """Return the name and the memory of the card that this process uses."""
    from paddle.device import cuda

    properties = cuda.get_device_properties()
    return f"{properties.name}, {properties.total_memory / 1e9:.1f} GB"


def reason_against_card() -> str | None:
    """Return why this process computes on the CPU of a machine with a card; None without one, or where it is used."""
    import paddle

    if processes.is_on_gpu() or not _has_card():
        return None
    if paddle.is_compiled_with_cuda():
        return "this Paddle finds no usable card; the driver may be too old for it (nvidia-smi shows its version)"
    return (
        "this Paddle is the build for the CPU; `bash setup.sh`, with no other Paddle active, installs that for the card"
    )


def _has_card() -> bool:
    """Check whether the driver lists a card that the user has not hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=_SECONDS_FOR_LIST, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"GPU" in done.stdout
