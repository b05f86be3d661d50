"""The processor's width, the cores that a process may use, and work shared among forks."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.commands import ROOT, python

from dreambooth.system import machine, processes
from dreambooth.system.errors import BadInput

WIDE = "avx avx2 fma avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    "maker, flags, expected",
    [
        ("AuthenticAMD", WIDE, "7"),
        ("GenuineIntel", WIDE, "7"),
        ("AuthenticAMD", "avx avx2 fma", "5"),
        ("GenuineIntel", "avx avx2 fma avx512f", "5"),  # the first processors with it have another code path
        ("AuthenticAMD", "avx sse4", None),
        ("AuthenticAMD", "avx avx2x fma", None),
        ("SomebodyElse", WIDE, None),
    ],
)
def test_mkls_code_path_follows_the_processors_flags(maker, flags, expected):
    assert machine.mkl_path(f"processor : 0\nvendor_id\t: {maker}\nflags\t\t: fpu {flags} sha\nbogomips: 5") == expected


def test_a_processor_without_a_description_has_no_path():
    assert machine.mkl_path("") is None and machine.mkl_path("vendor_id : AuthenticAMD") is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is set up")
@pytest.mark.parametrize("own", [None, "4"])
def test_the_users_own_path_has_priority(own):
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from dreambooth.system import machine\n"
        "os.environ.pop('MKL_DEBUG_CPU_TYPE', None)\n"
        f"os.environ.update({ ({'MKL_DEBUG_CPU_TYPE': own} if own else {})!r})\n"
        f"machine._processor = lambda: 'model name: Big\\nvendor_id: AuthenticAMD\\nflags: {WIDE}'\n"
        "machine.set_up(); print(os.environ['MKL_DEBUG_CPU_TYPE'], machine.describe(machine.Split(1, 2)))\n"
    )
    path, described = ("4", "4") if own else ("7", "AVX-512")
    expected = f"{path} {{'processor': 'Big', 'mkl': {described!r}, 'workers': 1, 'threads': 2}}"
    assert python("-c", code).stdout.strip() == expected


def write_group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_dot_", ".")).write_text(text + "\n")


def test_the_limits_of_control_groups_of_version_2_are_those_of_all_groups_around(tmp_path):
    root = tmp_path / "root"
    (tmp_path / "cgroup").write_text("0::/outer/inner\n")
    assert machine._limits(tmp_path / "cgroup", root) == []
    write_group(root / "outer", cpu_dot_max="150000 100000")
    write_group(root / "outer/inner", cpu_dot_max="max 100000")
    assert machine._limits(tmp_path / "cgroup", root) == [1.5]
    write_group(root / "outer/inner", cpu_dot_max="damaged")
    assert machine._limits(tmp_path / "cgroup", root) == [1.5]


def test_the_limits_of_control_groups_of_version_1(tmp_path):
    root = tmp_path / "root"
    (tmp_path / "cgroup").write_text("5:cpu,cpuacct:/docker/1\n4:memory:/other\n")
    write_group(root / "cpu", cpu_dot_cfs_quota_us="400000", cpu_dot_cfs_period_us="100000")  # as a container sees it
    assert machine._limits(tmp_path / "cgroup", root) == [4.0]
    write_group(root / "cpu", cpu_dot_cfs_quota_us="-1")
    assert machine._limits(tmp_path / "cgroup", root) == []
    write_group(root / "cpu/docker/1", cpu_dot_cfs_quota_us="50000", cpu_dot_cfs_period_us="100000")
    assert machine._limits(tmp_path / "cgroup", root) == [0.5]


def test_the_cores_are_those_of_the_affinity_within_the_limits(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    for limits, expected in (([], 8), ([16.0], 8), ([2.5], 2), ([6.0, 0.3], 1)):
        monkeypatch.setattr(machine, "_limits", lambda *places, limits=limits: limits)
        assert machine.cores() == expected


@pytest.mark.parametrize(
    "own, launched, small, large",
    [
        (None, None, (8, 1), (1, 8)),
        ("3", None, (3, 1), (1, 3)),
        ("1", None, (1, 1), (1, 1)),
        ("3,1", None, (3, 1), (1, 3)),  # for each level, as OpenMP has it
        (" 1 ", None, (1, 1), (1, 1)),
        ("many", None, (8, 1), (1, 8)),
        ("16", None, (8, 1), (1, 16)),  # more workers than cores help nobody
        (None, "2", (1, 4), (1, 4)),
        ("1", "2", (1, 4), (1, 4)),  # the launcher's own value
        ("2", "4", (1, 2), (1, 2)),
        (None, "16", (1, 1), (1, 1)),
    ],
)
def test_small_networks_have_workers_and_large_ones_threads(own, launched, small, large, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(machine, "_environment", {"OMP_NUM_THREADS": own} if own else {})
    monkeypatch.delenv("PADDLE_LOCAL_SIZE", raising=False)
    if launched:
        monkeypatch.setenv("PADDLE_LOCAL_SIZE", launched)
    assert machine.split(10_000_000) == small and machine.split(860_000_000) == large


@pytest.mark.parametrize(
    "mkl, workers, threads, expected",
    [
        ("AVX2", 1, 4, "Big (AVX2), 4 threads"),
        ("AVX-512", 2, 1, "Big (AVX-512), 2 workers"),
        ("", 1, 1, "Big, 1 thread"),
        ("", 2, 2, "Big, 2 workers of 2 threads"),
    ],
)
def test_a_machine_in_words(mkl, workers, threads, expected):
    described = {"processor": "Big", "mkl": mkl, "workers": workers, "threads": threads}
    assert machine.in_words(described) == expected


def test_a_card_has_neither_workers_nor_threads(monkeypatch):
    monkeypatch.setattr(processes, "is_on_gpu", lambda: True)
    assert machine.use_cores([]) == (1, 0)


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_work_is_shared_and_comes_back_in_order(workers):
    found = list(machine.shared(lambda item: (item * 10, os.getpid()), range(7), workers))
    assert [result for result, _ in found] == [0, 10, 20, 30, 40, 50, 60]
    assert len({process for _, process in found}) == min(workers, 7)
    assert (os.getpid() in {process for _, process in found}) == (workers == 1)
    assert list(machine.shared(str, [], workers)) == []


def test_a_fork_computes_as_the_process_itself():
    import paddle

    matrix = paddle.to_tensor(np.random.default_rng(0).standard_normal((64, 64), np.float32))
    own = paddle.matmul(matrix, matrix).numpy()
    for forked in machine.shared(lambda _: paddle.matmul(matrix, matrix).numpy(), range(2), 2):
        assert np.array_equal(forked, own)


def refuse(item):
    raise BadInput(f"--flag {item}: not this")


def test_an_error_in_a_fork_is_raised_here():
    with pytest.raises(BadInput, match="--flag 0: not this"):
        list(machine.shared(refuse, range(4), 2))


def test_the_first_process_does_the_work_of_a_fork_that_is_killed(capsys):
    first = os.getpid()

    def square(item):
        if item == 3 and os.getpid() != first:
            os.kill(os.getpid(), signal.SIGKILL)
        return item * item

    assert list(machine.shared(square, range(8), 2)) == [item * item for item in range(8)]
    assert capsys.readouterr().err.count("a worker has ended, perhaps for want of memory") == 1


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def raise_odd(item):
    raise Odd("this", "that")


def test_an_error_that_can_not_be_sent_is_told_in_words():
    with pytest.raises(RuntimeError, match="Odd: this and that"):
        list(machine.shared(raise_odd, range(4), 2))


def test_a_fork_without_memory_leaves_its_work_to_the_first_process(capsys):
    first = os.getpid()

    def need(item):
        if os.getpid() != first:
            raise MemoryError
        return item

    assert list(machine.shared(need, range(4), 2)) == [0, 1, 2, 3]
    assert capsys.readouterr().err.count("a worker has ended, perhaps for want of memory") == 2


def test_the_first_process_does_all_where_no_fork_can_begin(capsys, monkeypatch):
    def refused():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    files = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else None
    assert list(machine.shared(str, range(3), 3)) == ["0", "1", "2"]
    assert capsys.readouterr().err.count("a worker can't be started (Resource temporarily unavailable)") == 3
    assert files is None or set(os.listdir("/proc/self/fd")) == files


def test_ended_forks_may_be_taken_by_the_system():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert list(machine.shared(str, range(3), 2)) == ["0", "1", "2"]
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_fork_ends_with_its_block():
    with machine.forked(lambda connection: (connection.send((os.getpid(), None)), time.sleep(60))) as connection:
        process = machine.receive(connection)
        os.kill(process, signal.SIGTERM)  # a signal to the whole group is the first process's
        os.kill(process, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process of its parent's end")
def test_a_fork_ends_with_the_first_process():
    code = (
        f"import os, sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from dreambooth.system import machine\n"
        "with machine.forked(lambda pipe: (pipe.send((os.getpid(), None)), time.sleep(60))) as pipe:\n"
        "    print(machine.receive(pipe), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as first:
        process = int(first.stdout.readline())
        first.kill()
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the fork is still there")


def test_another_process_gets_the_threads_of_the_user_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DREAMBOOTH_TEST", "kept")
    for before, expected in (({}, None), ({"OMP_NUM_THREADS": "1"}, "1")):
        monkeypatch.setattr(machine, "_environment", before)
        given = machine.environment()
        assert given.get("OMP_NUM_THREADS") == expected and given["DREAMBOOTH_TEST"] == "kept"
