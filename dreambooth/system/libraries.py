"""The import of Paddle, PaddleNLP and PPDiffusers, quiet except for faults of a run."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import warnings
from typing import TYPE_CHECKING

from dreambooth.system import machine, patches

if TYPE_CHECKING:
    from collections.abc import Iterator

_HARMLESS = (
    "No ccache found",
    "Setuptools is replacing distutils",
    "pkg_resources is deprecated",
    # the library itself amends old settings and reads old folders
    "The configuration file of this scheduler",
    "The class CLIPFeatureExtractor is deprecated",
)


def load(readers: patches.Readers, verbose: bool = False) -> None:
    """Import the libraries, quietly unless `verbose`, and replace their readers of weights.

    It takes several seconds, so check all arguments before. Afterwards SIGTERM has its default handler.
    """
    machine.set_up()
    import zlib  # noqa: F401  before Paddle: 2.6.2 exports zlib symbols too, and a later import of zlib crashes

    if not verbose:
        os.environ.setdefault("GLOG_minloglevel", "2")
        for message in _HARMLESS:
            warnings.filterwarnings("ignore", message=f"(?s).*{message}")
    with _without_collection():
        import paddle  # noqa: F401

        patches.import_what_is_used()
        patches.add_biases_by_products()
        patches.recompute_without_random_state()
        patches.read_weights_only(readers)
        from paddlenlp.utils.log import logger
        from ppdiffusers.utils import logging as ppdiffusers_logging

    if not verbose:
        logger.set_level("ERROR")
        ppdiffusers_logging.set_verbosity_error()
        ppdiffusers_logging.disable_progress_bar()
    # both imports replace the handler of SIGTERM
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
