"""The libraries load without their noise, and real warnings still show."""

import os
import subprocess
import sys
from types import SimpleNamespace

import paddle
import pytest
from support.commands import ROOT, python

from dreambooth.system import libraries, processes


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


def test_only_what_is_used_is_imported():
    """What is left out loads on use."""
    code = (
        "import sys; from dreambooth.files import weight_files; from dreambooth.system import libraries\n"
        "libraries.load(weight_files.READERS); libraries.load(weight_files.READERS)\n"
        "from ppdiffusers import StableDiffusionPipeline, UniDiffuserPipeline\n"
        "assert not {'datasets', 'sklearn', 'pandas', 'fastapi'} & set(sys.modules)\n"
        "import paddlenlp; assert paddlenlp.Taskflow is None and paddlenlp.metrics.ChunkEvaluator\n"
        "assert 'sklearn' in sys.modules"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_versions_name_paddle_the_libraries_and_numpy():
    found = libraries.versions()
    assert found["ppdiffusers"] == "0.29.0" and any(name.startswith("paddlepaddle") for name in found)
    assert found["numpy"] == sys.modules["numpy"].__version__


FAULTS = """
import paddle, resource
[paddle.ones([4 << 20]) for _ in range(2)]  # of 16 MB each
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    paddle.ones([4 << 20])
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
heaps = open("/proc/self/smaps").read().split("[heap]")[1:]
print(int(any("hg" in heap.split("VmFlags:")[1].splitlines()[0].split() for heap in heaps)))
"""
LOAD = (
    "from dreambooth.files import weight_files; from dreambooth.system import libraries\n"
    "libraries.load(weight_files.READERS)\n"
)


def printed_numbers(code, *start):
    done = subprocess.run([*start, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
def test_memory_that_is_freed_is_kept_for_the_next_tensor():
    faults, is_huge = printed_numbers(LOAD + FAULTS)
    assert faults < 20_000 and is_huge
    # by itself, the system clears 4096 pages for each tensor
    faults, is_huge = printed_numbers(FAULTS)
    assert faults > 60_000 and not is_huge


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
def test_no_address_is_reserved_where_a_limit_counts_addresses():
    faults, is_huge = printed_numbers(LOAD + FAULTS, "bash", "-c", 'ulimit -v 30000000; exec "$@"', "bash")
    assert faults < 20_000 and not is_huge


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
@pytest.mark.parametrize("own", ["MALLOC_TRIM_THRESHOLD_=131072", "GLIBC_TUNABLES=glibc.malloc.mmap_max=65536"])
def test_the_users_own_settings_of_memory_stay(own):
    faults, is_huge = printed_numbers(LOAD + FAULTS, "env", own)
    assert faults > 60_000 and not is_huge


def test_the_users_number_of_threads_stays_and_paddle_says_nothing_of_it():
    code = f"import os\n{LOAD}print(os.environ['OMP_NUM_THREADS'])"
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


RELEASE = """
import os, paddle
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
kept = []
for _ in range(16):
    freed = paddle.ones([4 << 20])
    kept.append(paddle.ones([1 << 10]))  # above each
    del freed
paddle.ones([64 << 20])
before = resident()
libraries.release_memory()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
def test_free_memory_goes_back_to_the_system():
    [megabytes] = printed_numbers(LOAD + RELEASE)
    assert megabytes > 200


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """An nvidia-smi that runs a shell script, as a function of that."""

    def make(script):
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make


LIST = "echo 'GPU 0: Tesla T4 (UUID: GPU-1)'"


@pytest.mark.parametrize("hidden", [None, "", "-1", "0"])
def test_a_card_that_is_not_used_has_a_reason(nvidia_smi, monkeypatch, hidden):
    nvidia_smi(LIST)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    for with_cuda, reason in ((False, "the build for the CPU; `bash setup.sh`"), (True, "finds no usable card")):
        monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda with_cuda=with_cuda: with_cuda)
        found = libraries.reason_against_card()
        assert found is None if hidden in ("", "-1") else reason in found


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "sleep 60"])
def test_without_a_card_there_is_none_to_use(nvidia_smi, monkeypatch, script):
    nvidia_smi(script)
    monkeypatch.setattr(libraries, "_SECONDS_FOR_LIST", 0.3)
    assert libraries.reason_against_card() is None


def test_a_card_that_is_used_is_named(nvidia_smi, monkeypatch):
    nvidia_smi(LIST)
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    properties = SimpleNamespace(name="Tesla T4", total_memory=15_843_721_216)
    monkeypatch.setattr(paddle.device.cuda, "get_device_properties", lambda: properties)
    assert libraries.reason_against_card() is None
    assert libraries.card_name() == "Tesla T4, 15.8 GB"


def test_a_card_gets_its_memory_back_too(monkeypatch):
    emptied = []
    monkeypatch.setattr(paddle.device.cuda, "empty_cache", lambda: emptied.append(True))
    libraries.release_memory()
    assert not emptied
    monkeypatch.setattr(processes, "is_on_gpu", lambda: True)
    libraries.release_memory()
    assert emptied
