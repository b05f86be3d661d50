"""Workers that share an update: the same gradients and losses, however many they are."""

import errno
import os
import signal
from contextlib import closing

import numpy as np
import paddle
import pytest
from paddle.autograd import PyLayer

from dreambooth.system.errors import BadInput
from dreambooth.system.patches import layers
from dreambooth.training.team import Team

ROWS = np.random.default_rng(0).standard_normal((6, 4), np.float32)


class Network:
    """Two parameters that learn, and one that no loss sees."""

    def __init__(self):
        self.parameters = [paddle.create_parameter([4, 3], "float32"), paddle.create_parameter([3], "float32")]
        self.parameters.append(paddle.create_parameter([2], "float32"))
        for number, parameter in enumerate(self.parameters):
            values = np.random.default_rng(number + 1).standard_normal(parameter.shape, np.float32)
            parameter.set_value(values)

    def go_through(self, update, share):
        number, workers = share
        rows = paddle.to_tensor(ROWS[number * 6 // workers : (number + 1) * 6 // workers] * (update + 1))
        loss = (paddle.matmul(rows, self.parameters[0]) + self.parameters[1]).square().sum() / 6
        loss.backward()
        losses = {"loss": loss.detach()}
        return {**losses, "late": loss.detach()} if number == workers - 1 else losses


def updates(workers, count=2):
    """Make some updates of gradient descent; return their losses, and the weights after them."""
    network, losses = Network(), []
    with closing(Team(workers, network.parameters, network.go_through)) as team:
        for update in range(count):
            losses.append({name: float(loss) for name, loss in team.go_through(update).items()})
            assert network.parameters[2].grad is None
            for parameter in network.parameters[:2]:
                parameter.set_value(parameter.numpy() - 0.01 * parameter.grad.numpy())
                parameter.clear_gradient(set_to_zero=False)
    return losses, [parameter.numpy() for parameter in network.parameters]


@pytest.mark.parametrize("workers", [2, 3, 6])
def test_the_updates_are_those_of_one_process_and_the_same_every_time(workers):
    losses, weights = updates(1)
    shared, found = updates(workers)
    again, repeated = updates(workers)
    for mine, theirs in zip(losses, shared):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert theirs["late"] < mine["loss"]  # a loss of the last worker alone
    for mine, theirs, twice in zip(weights, found, repeated):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
        assert np.array_equal(theirs, twice)
    assert shared == again


def test_an_error_in_a_worker_is_raised_here():
    network = Network()

    def fail(update, share):
        if share[0]:
            raise BadInput("--flag: not this")
        return network.go_through(update, share)

    with closing(Team(2, network.parameters, fail)) as team, pytest.raises(BadInput, match="--flag: not this"):
        team.go_through(0)


def test_the_first_process_does_the_share_of_a_worker_that_is_killed(capsys):
    network, whole = Network(), Network()
    first = os.getpid()

    def die(update, share):
        if update == 1 and share[0] == 1 and os.getpid() != first:
            os.kill(os.getpid(), signal.SIGKILL)
        return network.go_through(update, share)

    with (
        closing(Team(3, network.parameters, die)) as team,
        closing(Team(3, whole.parameters, whole.go_through)) as undisturbed,
    ):
        for update in range(3):
            losses = {name: float(loss) for name, loss in team.go_through(update).items()}
            assert losses == {name: float(loss) for name, loss in undisturbed.go_through(update).items()}
            for mine, other in zip(network.parameters[:2], whole.parameters[:2]):
                assert np.array_equal(mine.grad.numpy(), other.grad.numpy())
                mine.clear_gradient(set_to_zero=False)
                other.clear_gradient(set_to_zero=False)
    assert capsys.readouterr().err.count("a worker has ended, perhaps for want of memory") == 1


class NoRoom(PyLayer):
    """A layer whose backward pass finds no memory in a fork."""

    @staticmethod
    def forward(context, x):
        return x * 1

    @staticmethod
    def backward(context, gradient):
        if os.getpid() != FIRST:
            raise MemoryError("no room")
        return gradient * 1


FIRST = os.getpid()


def test_a_worker_without_room_in_its_backward_pass_is_replaced(monkeypatch, capfd):
    expected = updates(2)
    go_through, multiply = Network.go_through, paddle.matmul

    def in_little_room(self, update, share):
        with layers.errors_of_python():
            return go_through(self, update, share)

    monkeypatch.setattr(Network, "go_through", in_little_room)
    monkeypatch.setattr(paddle, "matmul", lambda *each: NoRoom.apply(multiply(*each)))
    losses, weights = updates(2)
    assert "a worker has ended, perhaps for want of memory" in capfd.readouterr().err
    assert losses == expected[0] and all(map(np.array_equal, weights, expected[1]))


def test_without_memory_to_share_the_first_process_does_all(monkeypatch, capfd):
    expected = updates(2)

    def no_room(*_):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr("mmap.mmap", no_room)
    losses, weights = updates(2)
    assert capfd.readouterr().err.count("a worker can't share memory (Cannot allocate memory)") == 1
    assert losses == expected[0] and all(map(np.array_equal, weights, expected[1]))
