"""Import Paddle, PaddleNLP and PPDiffusers without their noise; what is wrong with a run still shows."""

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

    if verbose:
        import paddle
        import paddlenlp
        import ppdiffusers
    else:
        os.environ.setdefault("GLOG_minloglevel", "2")
        for message in NOISE:
            warnings.filterwarnings("ignore", message=f"(?s).*{message}")
        import paddle  # noqa: F401
        import paddlenlp  # noqa: F401
        from paddlenlp.utils.log import logger

        logger.set_level("ERROR")
        import ppdiffusers.utils.logging

        ppdiffusers.utils.logging.set_verbosity_error()
        ppdiffusers.utils.logging.disable_progress_bar()
    # both imports put handlers of their own over SIGTERM's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
