"""The watch over other processes: who is silent is noticed, and who was stopped itself begins anew."""

import time

import pytest

from dreambooth.system.devices import watch as watch_module


class Store:
    """The store of several processes, as one of them has it; `others` count up in it as long as they live."""

    counts, others = {}, set()

    def __init__(self, *arguments):
        pass

    def add(self, name, number):
        is_alive = number == 0 and name.removeprefix("beats of ") in self.others
        self.counts[name] = self.counts.get(name, 0) + number + is_alive
        return self.counts[name]


@pytest.fixture
def watch(monkeypatch):
    """A function that watches for some seconds among three processes, of which some live; what it ended with."""
    from paddle.base import core

    ended, watches = [], []
    monkeypatch.setattr(core, "TCPStore", Store)
    monkeypatch.setattr(watch_module, "SECONDS_BETWEEN_BEATS", 0.2)
    monkeypatch.setattr(watch_module, "SECONDS_OF_SILENCE", 1.5)
    monkeypatch.setattr(watch_module.atexit, "register", lambda *more: None)
    monkeypatch.setenv("PADDLE_MASTER", "127.0.0.1:1")

    def stop():
        for each in watches:
            each._ended.set()

    def start(*living, seconds=20):
        monkeypatch.setattr(Store, "counts", {})
        monkeypatch.setattr(Store, "others", set(living))
        watches.append(watch_module.Watch(1, 3, lambda message: (ended.append(message), stop())))
        watches[-1]._ended.wait(seconds)
        stop()
        return ended

    return start


def test_a_process_that_falls_silent_is_noticed(watch):
    assert watch("0", "2", seconds=3) == []
    assert watch("0") == ["process 2 has not answered for 1.5 s"]


def test_a_process_that_was_stopped_itself_begins_to_count_anew(watch, monkeypatch):
    clock = time.monotonic

    def monotonic():  # after a second, half a minute passes in which this process does not run
        return clock() + (30 if clock() - began > 1 else 0)

    began = clock()
    monkeypatch.setattr(watch_module.time, "monotonic", monotonic)
    assert watch("0", "2", seconds=4) == []


def test_where_the_others_have_ended_nobody_is_waited_for(monkeypatch, watch):
    def add(self, name, number):
        raise RuntimeError("the store is gone")

    monkeypatch.setattr(Store, "add", add)
    assert watch(seconds=1.5) == []
