"""Import Paddle, PaddleNLP and PPDiffusers without their noise; what is wrong with a run still shows."""

import functools
import os
import signal
import warnings

NOISE = (
    "No ccache found",
    "Setuptools is replacing distutils",
    "pkg_resources is deprecated",
    # the library's own affair: it amends old settings, and reads old folders, by itself
    "The configuration file of this scheduler",
    "The class CLIPFeatureExtractor is deprecated",
)


def load(verbose=False):
    """Import the libraries once, quietly unless `verbose`. Call it when the arguments are known to be good: it takes
    several seconds."""
    import zlib  # noqa: F401  before Paddle: 2.6.2 exports zlib symbols of its own, and whoever loads zlib later crashes

    if not verbose:
        os.environ.setdefault("GLOG_minloglevel", "2")
        for message in NOISE:
            warnings.filterwarnings("ignore", message=f"(?s).*{message}")
    import paddle  # noqa: F401

    recompute_without_random_state()
    from paddlenlp.utils.log import logger
    from ppdiffusers.utils import logging

    if not verbose:
        logger.set_level("ERROR")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    # both imports put handlers of their own over SIGTERM's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def recompute_without_random_state():
    """Gradient checkpointing saves the state of Paddle's generators for what it computes again. Nothing random is in
    there, since dropout is off, and Paddle 2.6.2 fails at it on the CPU. To be called before PPDiffusers, whose modules
    each keep the function that they find."""
    from paddle.distributed.fleet import utils

    if not isinstance(utils.recompute, functools.partial):
        utils.recompute = functools.partial(utils.recompute, preserve_rng_state=False)


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
