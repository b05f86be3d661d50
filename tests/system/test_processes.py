"""Several processes as one: shares of the work, means, gradients, and meetings that none leaves too early."""

import numpy as np
import paddle
import pytest
from support import reads
from support.commands import ROOT, launch

from dreambooth.system import processes as system_processes
from dreambooth.system.errors import Stopped


def test_a_process_alone_has_all_the_work_and_its_own_values():
    assert (
        system_processes.is_first()
        and system_processes.world_size() == 1
        and list(system_processes.share(3)) == [0, 1, 2]
    )
    assert system_processes.mean({"a": 2.5}) == {"a": 2.5} and system_processes.broadcast({"x": 1}) == {"x": 1}
    assert system_processes.gather_rows({"a": np.ones(3)}, 3)["a"].tolist() == [1, 1, 1]
    assert not system_processes.is_different_anywhere(1) and system_processes.is_true_anywhere(True)
    system_processes.wait()


def test_shares_cover_the_work_once(monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
        shares += system_processes.share(8)
    assert sorted(shares) == list(range(8))


def test_numbers_and_tensors_come_in_their_order_and_the_host_waits_once():
    values = {"a": 2.5, "loss": paddle.to_tensor(0.1), "b": True, "part": paddle.to_tensor([3.0])}
    with reads.counted() as found:
        means = system_processes.mean(values)
    assert list(means.items()) == [("a", 2.5), ("loss", float(np.float32(0.1))), ("b", 1.0), ("part", 3.0)]
    assert len(found) == 1


def test_gradients_are_exchanged_in_paddles_own_buckets_one_by_one(monkeypatch):
    """So they add in the same order, beside one bucket in place of a second copy of all."""
    from paddle.distributed.fleet.utils import hybrid_parallel_util
    from paddle.distributed.parallel import build_groups

    layers = [paddle.nn.Linear(*sides) for sides in ((3, 9), (9, 2), (2, 60), (60, 1), (1, 1))]
    values = paddle.ones([1, 3])
    for layer in layers:
        values = layer(values)
    values.sum().backward()
    unused = paddle.nn.Linear(5, 5)
    parameters = [*layers[0].parameters(), *unused.parameters(), *(p for each in layers[1:] for p in each.parameters())]
    buckets = []
    monkeypatch.setattr(system_processes, "world_size", lambda: 2)
    monkeypatch.setattr(hybrid_parallel_util, "fused_allreduce_gradients", lambda bucket, group: buckets.append(bucket))
    for size in (1, 40, 400, 1 << 27):
        monkeypatch.setattr(system_processes, "_BUCKET", size)
        buckets.clear()
        system_processes.average_gradients(parameters)
        whole = build_groups([each.grad for each in parameters if each.grad is not None], size)
        assert [len(bucket) for bucket in buckets] == [len(gradients) for _, gradients, _ in whole]
        assert [p.name for bucket in buckets for p in bucket] == [p.name for each in layers for p in each.parameters()]
        # each by itself is one of Paddle's
        assert all(len(build_groups([p.grad for p in bucket], size)) == 1 for bucket in buckets)


TWO = """
import sys; sys.path.insert(0, {root!r})
import numpy as np
import paddle
from dreambooth.files import weight_files
from dreambooth.system import console, libraries, processes
libraries.load(weight_files.READERS)
import paddle
processes.start()
rank = processes.rank()
for processes._BUCKET in (1, 24, 1 << 27):
    layer = paddle.nn.Linear(2, 2)
    (layer(paddle.ones([1, 2])) * (rank + 1)).sum().backward()  # gradients of ones times 1 and 2
    processes.average_gradients(layer.parameters())
    assert np.allclose(layer.weight.grad.numpy(), 1.5) and np.allclose(layer.bias.grad.numpy(), 1.5)
tensor = paddle.to_tensor(10.0 * rank)
assert processes.mean({{"a": rank, "tensor": tensor, "b": 4}}) == {{"a": 0.5, "tensor": 5.0, "b": 4.0}}
assert processes.broadcast({{"seed": 7 + rank}}) == {{"seed": 7}}
assert processes.is_true_anywhere(rank == 1) and not processes.is_true_anywhere(rank == 2)
assert processes.is_different_anywhere(rank) and not processes.is_different_anywhere("same")
for count in (1, 2, 5):
    mine = np.array([[index * 10] for index in (list(processes.share(count)) or [0])])
    assert processes.gather_rows({{"x": mine}}, count)["x"].tolist() == [[index * 10] for index in range(count)], count
processes.wait()
console.print_message("only once")
processes.finish()
"""


def test_two_processes_agree_on_means_values_gradients_and_rows(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO.format(root=str(ROOT)))
    done = launch(tmp_path, script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.read_text().count("only once") for path in sorted((tmp_path / "launcher").glob("workerlog.*"))] == [
        1,
        0,
    ]


# each process writes down when it comes to a meeting, and when it goes on
MEETINGS = """
import sys, time; sys.path.insert(0, {root!r})
from pathlib import Path
from dreambooth.files import weight_files
from dreambooth.system import libraries, processes
libraries.load(weight_files.READERS)
processes.start()
rank = processes.rank()
for meeting, late in enumerate({late!r}):
    if rank == meeting % 2:
        time.sleep(late)
    with Path({notes!r}).open("a") as notes:  # a short line is appended whole
        notes.write(f"{{meeting}} comes {{rank}} {{time.time()}}\\n")
    processes.wait()
    with Path({notes!r}).open("a") as notes:
        notes.write(f"{{meeting}} goes {{rank}} {{time.time()}}\\n")
processes.finish()
"""


def meet(folder, late):
    """Two processes at some meetings, to which the one and the other come late in turn; [(meeting, what, rank, when)]
    in the order in which it happened."""
    script, notes = folder / "meetings.py", folder / "notes"
    script.write_text(MEETINGS.format(root=str(ROOT), notes=str(notes), late=late))
    done = launch(folder, script)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in notes.read_text().splitlines()]
    return [(int(meeting), what, int(rank), float(when)) for meeting, what, rank, when in lines]


def all_met(noted, late):
    assert sorted(each[:3] for each in noted) == sorted(
        (meeting, what, rank) for meeting in range(len(late)) for what in ("comes", "goes") for rank in range(2)
    )
    for meeting, seconds in enumerate(late):
        comes = [when for number, what, _, when in noted if (number, what) == (meeting, "comes")]
        goes = [when for number, what, _, when in noted if (number, what) == (meeting, "goes")]
        assert max(comes) <= min(goes), meeting
        assert max(comes) - min(comes) >= 0.8 * seconds, meeting  # one did wait


@pytest.fixture(scope="module")
def noted(tmp_path_factory):
    return meet(tmp_path_factory.mktemp("meetings"), late=[2, 0, 0.5])


def test_an_early_process_waits_for_one_that_is_two_seconds_late(noted):
    comes = {rank: when for meeting, what, rank, when in noted if (meeting, what) == (0, "comes")}
    goes = {rank: when for meeting, what, rank, when in noted if (meeting, what) == (0, "goes")}
    assert comes[0] - comes[1] > 1.5
    assert goes[1] >= comes[0] and goes[0] >= comes[0]
    assert abs(goes[0] - goes[1]) < 1.5  # and does not wait longer than that


def test_three_meetings_in_a_row_keep_their_order(noted):
    all_met(noted, [2, 0, 0.5])
    for rank in range(2):
        mine = [(meeting, what) for meeting, what, who, _ in noted if who == rank]
        assert mine == [(meeting, what) for meeting in range(3) for what in ("comes", "goes")]


@pytest.mark.slow
def test_a_process_may_come_later_than_the_thirty_seconds_after_which_gloo_gives_up(tmp_path):
    all_met(meet(tmp_path, late=[35]), [35])


# the second process looks only every three seconds whether all are there, as one does that gets no processor
LAST = """
import sys, time; sys.path.insert(0, {root!r})
from types import SimpleNamespace
from dreambooth.files import weight_files
from dreambooth.system import libraries, processes
libraries.load(weight_files.READERS)
processes.start()
if processes.rank() == 1:
    processes.time = SimpleNamespace(sleep=lambda seconds, sleep=time.sleep: sleep(3))
else:
    time.sleep(1)
processes.finish()
print("well ended")
"""


def test_the_first_process_does_not_end_before_the_others_have_read_the_count(tmp_path):
    """It keeps the count, and takes it along."""
    (tmp_path / "last.py").write_text(LAST.format(root=str(ROOT)))
    done = launch(tmp_path, tmp_path / "last.py")
    logs = [path.read_text() for path in sorted((tmp_path / "launcher").glob("workerlog.*"))]
    assert done.returncode == 0 and [log.count("well ended") for log in logs] == [1, 1], logs[1][-600:]


def test_a_process_alone_raises_its_own_error():
    with system_processes.together():
        pass
    with pytest.raises(ZeroDivisionError), system_processes.together():
        raise ZeroDivisionError


FAILING = """
import sys, time; sys.path.insert(0, {root!r})
from dreambooth.files import weight_files
from dreambooth.system import console, libraries, processes
from dreambooth.system.errors import Stopped

def main(argv):
    libraries.load(weight_files.READERS)  # also removes Paddle's handler of SIGTERM, which prints a trace
    processes.start()
    with processes.together():
        pass
    for failing in (0, 1):
        try:
            with processes.together():
                if processes.rank() == failing:
                    time.sleep(1)
                    raise Stopped("no room in " + str(processes.rank()), code=1)
        except Stopped as error:
            print("caught", error, flush=True)
    with processes.together():
        if processes.rank() == 1:
            raise Stopped("the end", code=1)

console.run_command(main)
"""


def test_all_processes_fail_with_the_text_of_the_one_that_failed(tmp_path):
    (tmp_path / "failing.py").write_text(FAILING.format(root=str(ROOT)))
    done = launch(tmp_path, tmp_path / "failing.py")
    assert done.returncode != 0
    for number, log in enumerate(sorted((tmp_path / "launcher").glob("workerlog.*"))):
        said = log.read_text()
        assert "caught no room in 0" in said and "caught no room in 1" in said and "Traceback" not in said
        # the launcher ends the others before they say the same
        assert ("error" not in said) if number else said.rstrip().endswith("error: the end")


def test_a_collective_that_fails_is_explained(monkeypatch):
    import paddle.distributed

    def fail(*arguments, **options):
        raise ValueError("(External) Connection reset by peer")

    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setattr(paddle.distributed, "all_reduce", fail)
    with pytest.raises(
        Stopped, match="^another process has ended, or cannot be reached; to go on: .*latest$"
    ) as stopped:
        system_processes.mean({"a": 1})
    assert stopped.value.code == 1
