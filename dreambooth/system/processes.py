"""Several processes as one: rank, waiting, shares of the work, means, gradient exchange.

paddle.distributed.launch sets the rank and the number of processes in the environment, so both are available before
Paddle is imported.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dreambooth.system.devices import watch
from dreambooth.system.errors import BadInput, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import FrameType
    from typing import Any, SupportsFloat

    from paddle import Tensor

    from dreambooth.system.types import Arrays

    Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None

_Value = TypeVar("_Value")
_POLL_SECONDS = 0.02
_BYTES, _BUCKET = 4, 1 << 27  # of a gradient's number, and of a bucket
_SECONDS_TO_GIVE_WAY = 5  # in which the launcher ends the other processes when one has failed
_GO_ON = "to go on: the same command with --resume_from_checkpoint latest"

_meetings = itertools.count()  # every process comes to the same ones in the same order


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def world_size() -> int:
    """Return the number of processes."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def is_first() -> bool:
    """Check whether this process prints, logs and writes for all."""
    return rank() == 0


def _selected_cards() -> str | None:
    """Return the cards that the launcher assigned to this process, or None."""
    return os.environ.get("FLAGS_selected_gpus") or None  # noqa: SIM112  the launcher's own name


def is_on_gpu() -> bool:
    """Check whether Paddle computes on a card."""
    import paddle

    return str(paddle.device.get_device()).startswith("gpu")


def start() -> None:
    """Take the card that the launcher assigned, and join the other processes where there are others.

    Raises BadInput where that card does not exist.
    """
    import paddle

    if _selected_cards() and not paddle.device.cuda.device_count():
        raise BadInput(f"--gpus {_selected_cards()}: this Paddle finds no card; use --nproc_per_node instead")
    if world_size() > 1:
        import paddle.distributed

        handle_signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
        output = io.StringIO()
        with contextlib.redirect_stderr(output):
            paddle.distributed.init_parallel_env()
        for line in output.getvalue().splitlines():
            if not line.startswith(("FLAGS(", "=====")):  # a list of Paddle's own settings
                print(line, file=sys.stderr)
        with contextlib.suppress(Exception):  # without it, nothing notices a process that hangs
            watch.Watch(rank(), world_size(), lambda message: _end_at_once(f"{message}; {_GO_ON}"))


def give_way() -> str:
    """Let the launcher end this process where the first one ends too, whose message is the only one then.

    Returns the words that name this process in a message; none for the first.
    """
    time.sleep(_SECONDS_TO_GIVE_WAY * rank())
    return "" if is_first() else f" in process {rank()}"


def _end_at_once(message: str) -> None:
    """Print an error and end the process, from any thread, whatever the others do."""
    print(f"\nerror{give_way()}: {message}", file=sys.stderr, flush=True)  # below a progress bar
    os._exit(1)


@contextlib.contextmanager
def _with_all() -> Iterator[None]:
    """Explain what fails when another process has ended."""
    try:
        yield
    except Exception as error:  # Paddle raises several kinds
        raise Stopped(f"another process has ended, or cannot be reached; {_GO_ON}", code=1) from error


def handle_signal(number: int, handler: Handler) -> None:
    """Set a signal's handler so that a system call that the signal interrupts continues.

    Otherwise Paddle's client of the store raises an error when a signal comes while it waits for an answer.
    """
    signal.signal(number, handler)
    signal.siginterrupt(number, False)


def finish() -> None:
    """Leave the other processes in good order.

    Without it, a process that ends while another still uses the connection sometimes aborts at exit.
    """
    if world_size() > 1:
        import paddle.distributed

        wait()
        paddle.distributed.destroy_process_group()


def wait() -> None:
    """Wait until every process is here, however long that takes.

    gloo's own barrier gives up after 30 seconds, while another process may draw pictures for minutes. The launcher
    notices a process that dies, and ends all.
    """
    if world_size() > 1:
        from paddle.base.core import create_or_get_global_tcp_store

        store, meeting = create_or_get_global_tcp_store(), f"wait {next(_meetings)}"
        arrived, left = f"{meeting}, come", f"{meeting}, gone"
        with _with_all():
            store.add(arrived, 1)
            while store.add(arrived, 0) < world_size():
                time.sleep(_POLL_SECONDS)
            # the first process serves the store: if it ended before the others read the count, they would fail
            store.add(left, 1)
            while is_first() and store.add(left, 0) < world_size():
                time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Run a block in which a process may fail alone; wait for all, and fail in all if one has failed.

    The others raise Stopped with the text of the error, so that none of them waits for a process that has ended.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    wait()
    sources = mean({str(each): error is not None and each == rank() for each in range(world_size())})
    failed = [int(source) for source, value in sources.items() if value]
    if failed:
        text = broadcast(str(error), failed[0])
        raise error or Stopped(text, code=1)


def share(count: int) -> range:
    """Return the indices in range(count) that are this process's work."""
    return range(rank(), count, world_size())


def broadcast(value: _Value, source: int = 0) -> _Value:
    """Return one process's value, which pickle can copy, in every process."""
    if world_size() == 1:
        return value
    import paddle.distributed

    box = [value]
    with _with_all():
        paddle.distributed.broadcast_object_list(box, src=source)
    return box[0]


def mean(values: Mapping[str, SupportsFloat]) -> dict[str, float]:
    """Return the mean over the processes of each number or tensor of one element.

    The tensors are joined where they are, so that the host waits for a card once.
    """
    tensors: dict[str, Tensor] = {name: value for name, value in values.items() if hasattr(value, "place")}
    numbers = {name: float(value) for name, value in values.items() if name not in tensors}
    if world_size() == 1 and not tensors:
        return {name: float(np.float32(value)) for name, value in numbers.items()}
    import paddle

    parts = [tensor.astype("float32").reshape([1]) for tensor in tensors.values()]
    if numbers:
        parts.append(paddle.to_tensor(list(numbers.values()), dtype="float32"))
    joined = paddle.concat(parts)
    if world_size() > 1:
        with _with_all():
            paddle.distributed.all_reduce(joined)  # gloo has no mean
    means = dict(zip([*tensors, *numbers], (joined.numpy() / world_size()).tolist()))
    return {name: means[name] for name in values}


def is_true_anywhere(flag: bool) -> bool:
    """Check whether the flag is true in any process."""
    return mean({"flag": flag})["flag"] > 0


def is_different_anywhere(value: object) -> bool:
    """Check whether any process has another value than the first."""
    return is_true_anywhere(broadcast(value) != value)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over the processes, in large buckets, once per update.

    Exchanged by hand after the last backward pass instead of by DataParallel: that keeps accumulation and gradient
    checkpointing out of its hooks. Given all parameters, Paddle fills every bucket before it exchanges the first: a
    second copy of all gradients. So it gets those of one bucket at a time.
    """
    if world_size() == 1:
        return
    from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients

    with _with_all():
        for bucket in _buckets(parameters):
            fused_allreduce_gradients(bucket, None)


def _buckets(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the parameters that have gradients in Paddle's own buckets, so that it adds in the same order.

    A bucket takes gradients, all of one kind, until it has reached its size.
    """
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if parameter.grad is not None:
            if size >= _BUCKET:
                yield bucket
                bucket, size = [], 0
            bucket.append(parameter)
            size += _BYTES * int(parameter.size)
    if bucket:
        yield bucket


def gather_rows(mine: Arrays, count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Join the rows that each process computed for its `share(count)`: {name: array [count, …]} in order."""
    if world_size() == 1:
        return dict(mine)
    import paddle

    rows = -(-count // world_size())
    joined = {}
    for name, array in mine.items():
        padded = np.zeros((rows, *array.shape[1:]), dtype=array.dtype)
        padded[: len(array)] = array
        parts: list[Tensor] = []
        with _with_all():
            paddle.distributed.all_gather(parts, paddle.to_tensor(padded))
        stacked = np.stack([part.numpy() for part in parts], axis=1)  # [row, process, …]: index = row * world + rank
        joined[name] = stacked.reshape(rows * world_size(), *array.shape[1:])[:count]
    return joined
