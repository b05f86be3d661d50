"""Import Paddle, PaddleNLP and PPDiffusers without their noise; what is wrong with a run still shows."""

import contextlib
import ctypes
import os
import signal
import sys
import warnings
from pathlib import Path

from dreambooth.system import patches

NOISE = (
    "No ccache found",
    "Setuptools is replacing distutils",
    "pkg_resources is deprecated",
    # the library's own affair: it amends old settings, and reads old folders, by itself
    "The configuration file of this scheduler",
    "The class CLIPFeatureExtractor is deprecated",
)
# of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def load(verbose=False):
    """Import the libraries once, quietly unless `verbose`. Call it when the arguments are known to be good: it takes
    several seconds."""
    use_fast_mathematics()
    import zlib  # noqa: F401  before Paddle: 2.6.2 exports zlib symbols of its own, and whoever loads zlib later crashes

    if not verbose:
        os.environ.setdefault("GLOG_minloglevel", "2")
        for message in NOISE:
            warnings.filterwarnings("ignore", message=f"(?s).*{message}")
    import paddle  # noqa: F401

    patches.recompute_without_random_state()
    patches.read_single_numbers()
    from paddlenlp.utils.log import logger
    from ppdiffusers.utils import logging

    if not verbose:
        logger.set_level("ERROR")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    # both imports put handlers of their own over SIGTERM's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def use_fast_mathematics():
    """Let the CPU do what it can. To be called before Paddle is imported.

    Paddle's CPU build brings an MKL of 2019, which looks at the maker of a processor and takes its oldest code on
    AMD's; told so, it takes its AVX2 code, and a matrix product is three times as fast. And the C library gives every
    block above 128 KiB back to the system at once, whose pages are then cleared again and again: let it keep them.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # no /proc, or another C library than glibc
        processor = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        if "AuthenticAMD" in processor and " avx2 " in processor:
            os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc allows
        mallopt(M_TRIM_THRESHOLD, 256 << 20)


def versions():
    """{package: version} of what a result depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("paddlepaddle", "paddlepaddle-gpu", "ppdiffusers", "paddlenlp", "numpy", "Pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
