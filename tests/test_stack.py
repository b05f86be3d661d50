"""The libraries load without their noise, and real warnings still show."""

import sys

from conftest import ROOT, python

from dreambooth import stack


def test_loading_prints_nothing_and_leaves_warnings_on():
    code = (
        f"import sys, warnings; sys.path.insert(0, {str(ROOT)!r})\n"
        "from dreambooth import stack; stack.load()\n"
        "import ppdiffusers, signal; warnings.warn('a real one')\n"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n"
    )
    done = python("-c", code)
    assert done.returncode == 0 and done.stdout == ""
    assert [line for line in done.stderr.splitlines() if "Warning" in line] == ["<string>:3: UserWarning: a real one"]


def test_versions_name_what_a_result_depends_on():
    found = stack.versions()
    assert found["ppdiffusers"] == "0.29.0" and any(name.startswith("paddlepaddle") for name in found)
    assert found["numpy"] == sys.modules["numpy"].__version__
