"""A watch over the other processes of a run, which may hang or lose their machine."""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_BETWEEN_BEATS = 2
SECONDS_OF_SILENCE = 120  # after which a process counts as hung; no call keeps a thread from running so long
_SECONDS_TO_END = 5  # for the thread in the store


class Watch:
    """Two threads that end this process when another one is silent: one counts beats in the store, one looks at times.

    A process that dies is the launcher's to notice. One that hangs, or whose machine does, would let the others wait
    for as long as Paddle's collectives do, half an hour or forever.
    """

    def __init__(self, rank: int, count: int, end: Callable[[str], object]) -> None:
        from paddle.base.core import TCPStore

        address, port = os.environ["PADDLE_MASTER"].rsplit(":", 1)
        # a connection of its own, which the other calls do not wait for
        self._store = TCPStore(address, int(port), False, 0, SECONDS_OF_SILENCE)
        self._rank, self._end = rank, end
        self._ended = threading.Event()
        self._heard = dict.fromkeys(range(count), time.monotonic())
        beats = threading.Thread(target=self._beat, daemon=True)
        for thread in (beats, threading.Thread(target=self._look, daemon=True)):
            thread.start()
        # a thread inside of the store when the interpreter ends would abort the process
        atexit.register(beats.join, _SECONDS_TO_END)
        atexit.register(self._ended.set)  # the last one is called first

    def _beat(self) -> None:
        """Count up this process's number in the store, and note when the others' numbers change."""
        counts = dict.fromkeys(self._heard, 0)
        try:
            while not self._ended.wait(SECONDS_BETWEEN_BEATS):
                self._store.add(f"beats of {self._rank}", 1)
                for other, before in list(counts.items()):
                    counts[other] = self._store.add(f"beats of {other}", 0)
                    if counts[other] != before:
                        self._heard[other] = time.monotonic()
        except Exception:  # the first process, which serves the store, has ended: the launcher notices
            self._ended.set()

    def _look(self) -> None:
        """End the process when another one's number has not changed for long."""
        before = time.monotonic()
        while not self._ended.wait(SECONDS_BETWEEN_BEATS):
            now = time.monotonic()
            if now - before > 2 * SECONDS_BETWEEN_BEATS:  # this process was stopped itself, as by Ctrl-Z
                self._heard = dict.fromkeys(self._heard, now)
            before = now
            silent = [number for number, heard in self._heard.items() if now - heard > SECONDS_OF_SILENCE]
            if silent:
                # where the first one is silent, nobody hears of any other
                self._end(f"process {silent[0]} has not answered for {SECONDS_OF_SILENCE} s")
