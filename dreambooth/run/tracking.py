"""The log of a run: numbers, pictures and text, for VisualDL or TensorBoard."""

from __future__ import annotations

import re
import resource
import time
from typing import TYPE_CHECKING

import numpy as np

from dreambooth.system import processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import SupportsFloat

    from PIL import Image

    from dreambooth.config.sections import WriterType

_SECONDS_BETWEEN_FLUSHES = 10


class Tracker:
    """One log folder under one of the two writers, which differ in a few names."""

    def __init__(self, folder: str | Path, writer_type: WriterType) -> None:
        if writer_type == "visualdl":
            from visualdl import LogWriter

            self._writer = LogWriter(logdir=str(folder), flush_secs=_SECONDS_BETWEEN_FLUSHES)
        else:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(logdir=str(folder), flush_secs=_SECONDS_BETWEEN_FLUSHES)

    def add_scalars(self, values: Mapping[str, SupportsFloat], step: int) -> None:
        """Log numbers by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)

    def add_pictures(self, name: str, pictures: Iterable[Image.Image], step: int) -> None:
        """Log pictures as NAME/0, NAME/1, …; characters that a writer refuses in a name become _."""
        name = re.sub(r"[^-/\w.]+", "_", name)
        for number, picture in enumerate(pictures):
            pixels = np.asarray(picture.convert("RGB"))
            self._writer.add_image(f"{name}/{number}", pixels, step, dataformats="HWC")

    def add_text(self, name: str, text: str, step: int = 0) -> None:
        """Log a text."""
        self._writer.add_text(name, text, step)

    def close(self) -> None:
        """Write what is left, and close the files."""
        self._writer.close()


class NullTracker:
    """The tracker of every process but the first: it logs nothing."""

    def add_scalars(self, values: Mapping[str, SupportsFloat], step: int) -> None:
        """Log nothing."""

    def add_pictures(self, name: str, pictures: Iterable[Image.Image], step: int) -> None:
        """Log nothing."""

    def add_text(self, name: str, text: str, step: int = 0) -> None:
        """Log nothing."""

    def close(self) -> None:
        """Do nothing."""


def open_tracker(folder: str | Path, writer_type: WriterType, enabled: bool) -> Tracker | NullTracker:
    """Open a log folder, or a tracker without effect unless `enabled`."""
    return Tracker(folder, writer_type) if enabled else NullTracker()


class Speed:
    """Speed since the last measurement, and memory use."""

    def __init__(self, pictures_per_step: int, step: int = 0) -> None:
        self._pictures = pictures_per_step  # class pictures included
        self._step, self._time = step, time.perf_counter()

    def measure(self, step: int) -> dict[str, float]:
        """Return pictures per second since the last call, and the peak memory of the process in GB."""
        now = time.perf_counter()
        rate = (step - self._step) * self._pictures / (now - self._time)
        self._step, self._time = step, now
        return {"pictures_per_second": rate, "memory_gb": _peak_memory() / 1e9}


def _peak_memory() -> int:
    """Return the peak memory in bytes: of the card if there is one, else of this process."""
    if processes.is_on_gpu():
        import paddle

        return int(paddle.device.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def watch_command(folder: str | Path, writer_type: WriterType) -> str:
    """Return the command that shows a log."""
    return f"visualdl --logdir {folder}" if writer_type == "visualdl" else f"tensorboard --logdir {folder}"
