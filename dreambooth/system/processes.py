"""Several processes as one: who am I, wait for each other, exchange gradients, share out work, speak once.

paddle.distributed.launch tells each process its place in the environment, so rank and number are known before Paddle
is imported.
"""

import contextlib
import io
import itertools
import os
import signal
import sys
import time

import numpy as np

from dreambooth.system.errors import BadInput

_MEETINGS = itertools.count()  # every process comes to the same ones in the same order


def rank():
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def world_size():
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def is_first():
    return rank() == 0


def selected_cards():
    """The cards that the launcher was told to give this process, or None."""
    return os.environ.get("FLAGS_selected_gpus") or None  # noqa: SIM112  the launcher's own name


def is_on_gpu():
    import paddle

    return paddle.device.get_device().startswith("gpu")


def start():
    """Take the card that the launcher gave, and join the other processes where there are others."""
    import paddle

    if selected_cards() and not paddle.device.cuda.device_count():
        raise BadInput(f"--gpus {selected_cards()}: this Paddle sees no card; use --nproc_per_node instead")
    if world_size() > 1:
        import paddle.distributed

        handle_signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            paddle.distributed.init_parallel_env()
        for line in said.getvalue().splitlines():
            if not line.startswith(("FLAGS(", "=====")):  # a list of Paddle's own settings
                print(line, file=sys.stderr)


def handle_signal(number, handler):
    """Set a signal's handler so that a process which waits for the store's answer when the signal comes waits on;
    without this, Paddle's client takes the interruption for an error."""
    signal.signal(number, handler)
    signal.siginterrupt(number, False)


def finish():
    """Leave the other processes in good order: without it, one that ends while another still holds the connection
    aborts at exit, now and then."""
    if world_size() > 1:
        import paddle.distributed

        wait()
        paddle.distributed.destroy_process_group()


def wait():
    """Wait until every process is here, however long that takes: gloo's own barrier gives up after 30 seconds, while
    another process may well draw pictures for minutes. One that dies is noticed by the launcher, which ends all."""
    if world_size() > 1:
        from paddle.base.core import create_or_get_global_tcp_store

        store, meeting = create_or_get_global_tcp_store(), f"wait {next(_MEETINGS)}"
        come, gone = f"{meeting}, come", f"{meeting}, gone"
        store.add(come, 1)
        while store.add(come, 0) < world_size():
            time.sleep(0.02)
        # the store is the first process's: were it to end before the others have looked, they would fail
        store.add(gone, 1)
        while is_first() and store.add(gone, 0) < world_size():
            time.sleep(0.02)


def share(count):
    """The indices in range(count) that are this process's to do."""
    return range(rank(), count, world_size())


def broadcast(value):
    """The first process's value (an int, a str, a dict …) in every process."""
    if world_size() == 1:
        return value
    import paddle.distributed

    box = [value]
    paddle.distributed.broadcast_object_list(box, src=0)
    return box[0]


def mean(values):
    """The mean over the processes of each of {name: number or tensor}, as floats."""
    mine = np.array([float(value) for value in values.values()], dtype=np.float32)
    if world_size() > 1:
        import paddle

        tensor = paddle.to_tensor(mine)
        paddle.distributed.all_reduce(tensor)  # gloo has no mean
        mine = tensor.numpy() / world_size()
    return dict(zip(values, mine.tolist()))


def is_true_anywhere(flag):
    """Whether the flag is up in any process."""
    return mean({"flag": flag})["flag"] > 0


def is_different_anywhere(value):
    """Whether any process has another value than the first."""
    return is_true_anywhere(broadcast(value) != value)


def average_gradients(parameters):
    """Replace each gradient by its mean over the processes, in large buckets, once per update.

    Exchanged by hand after the last backward pass instead of by DataParallel: that keeps accumulation and gradient
    checkpointing out of its hooks.
    """
    if world_size() == 1:
        return
    from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients

    fused_allreduce_gradients(list(parameters), None)


def gather_rows(mine, count):
    """Put the rows that each process computed for its `share(count)` together: {name: [rows, …]} in order."""
    if world_size() == 1:
        return mine
    import paddle

    rows = -(-count // world_size())
    whole = {}
    for name, array in mine.items():
        padded = np.zeros((rows, *array.shape[1:]), dtype=array.dtype)
        padded[: len(array)] = array
        parts = []
        paddle.distributed.all_gather(parts, paddle.to_tensor(padded))
        stacked = np.stack([part.numpy() for part in parts], axis=1)  # [row, process, …]: index = row * world + rank
        whole[name] = stacked.reshape(rows * world_size(), *array.shape[1:])[:count]
    return whole
