"""The libraries load without their noise, and real warnings still show."""

import sys

from support.commands import ROOT, python

from dreambooth.system import libraries


def test_loading_prints_nothing_and_leaves_warnings_on():
    code = (
        f"import sys, warnings; sys.path.insert(0, {str(ROOT)!r})\n"
        "from dreambooth.files import weight_files; from dreambooth.system import libraries\n"
        "libraries.load(weight_files.READERS)\n"
        "import ppdiffusers, signal; warnings.warn('a real one')\n"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n"
    )
    done = python("-c", code)
    assert done.returncode == 0 and done.stdout == ""
    assert [line for line in done.stderr.splitlines() if "Warning" in line] == ["<string>:4: UserWarning: a real one"]


def test_versions_name_paddle_the_libraries_and_numpy():
    found = libraries.versions()
    assert found["ppdiffusers"] == "0.29.0" and any(name.startswith("paddlepaddle") for name in found)
    assert found["numpy"] == sys.modules["numpy"].__version__
