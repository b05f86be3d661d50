"""The libraries load without their noise, and real warnings still show."""

import sys

import pytest
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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is set up")
@pytest.mark.parametrize(
    "processor, own, expected",
    [
        ("vendor_id: AuthenticAMD flags: avx avx2 fma", None, "5"),
        ("vendor_id: AuthenticAMD flags: avx avx2 fma", "4", "4"),
        ("vendor_id: AuthenticAMD flags: sse4", None, "None"),
        ("vendor_id: GenuineIntel flags: avx avx2 fma", None, "None"),
    ],
)
def test_an_amd_processor_uses_avx2_unless_the_user_chooses(processor, own, expected):
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path; from dreambooth.system import libraries\n"
        "os.environ.pop('MKL_DEBUG_CPU_TYPE', None)\n"
        f"os.environ.update({ ({'MKL_DEBUG_CPU_TYPE': own} if own else {})!r})\n"
        f"Path.read_text = lambda *_, **__: {processor!r}\n"
        "libraries._use_fast_mathematics(); print(os.environ.get('MKL_DEBUG_CPU_TYPE'))\n"
    )
    assert python("-c", code).stdout.strip() == expected
