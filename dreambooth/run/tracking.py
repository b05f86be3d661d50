"""The log of a run: numbers, pictures and text, for VisualDL or TensorBoard."""

from __future__ import annotations

import re
import resource
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreambooth.data import picture_files
from dreambooth.files import atomic
from dreambooth.run.report import listing
from dreambooth.run.report.progress import Progress
from dreambooth.system import console, disk, processes
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import SupportsFloat

    from PIL import Image

    from dreambooth.config.run_sections import WriterType
    from dreambooth.data.concepts import Picture
    from dreambooth.files.records import Record
    from dreambooth.run.report.progress import Group

_SECONDS_BETWEEN_FLUSHES = 10
_SMOOTHED = 50  # steps
_TIMED = 5  # steps from whose time that of the run is estimated
_LONG = 300  # seconds, from which minutes are shown
_LOGGED, _SIDE = 8, 512  # pictures of the subject, and the pixels of their longer sides
_PREFIX = "dreambooth-log"  # of the paths that TensorBoard's writer opens with our files


class Tracker:
    """One log folder under one of the two writers, which differ in a few names.

    A writer's thread dies of a full disk, and its next caller waits for that thread forever. So the thread writes to
    files that never fail: the first error ends the log with a warning, and the run goes on.
    """

    def __init__(self, folder: str | Path, writer_type: WriterType, progress: Progress | None = None) -> None:
        self._folder, self._progress = Path(folder), progress
        self._error: OSError | None = None
        self._has_warned = False
        opened = _open_visualdl if writer_type == "visualdl" else _open_tensorboard
        self._writer = opened(self._folder, self._attempt)
        of_visualdl = self._writer.add_hparams if writer_type == "visualdl" else None
        self._add_settings: Callable[..., object] = of_visualdl or self._add_to_tensorboard

    def add_scalars(self, values: Mapping[str, SupportsFloat], step: int, group: Group = "training") -> None:
        """Log numbers as GROUP/NAME, which the log's page shows together."""
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", float(value), step)
        if self._progress is not None:
            self._progress.add(step, group, values)
        self._warn_once()

    def add_pictures(self, name: str, pictures: Iterable[Image.Image], step: int) -> None:
        """Log pictures as NAME/0, NAME/1, …; characters that a writer refuses in a name become _."""
        name = re.sub(r"[^-/\w.]+", "_", name)
        for number, picture in enumerate(pictures):
            pixels = np.asarray(picture.convert("RGB"))
            self._writer.add_image(f"{name}/{number}", pixels, step, dataformats="HWC")
        self._warn_once()

    def add_text(self, name: str, text: str, step: int = 0) -> None:
        """Log a text."""
        self._writer.add_text(name, text, step)
        self._warn_once()

    def add_settings(self, settings: Mapping[str, str | float], figures: Sequence[str]) -> None:
        """Log the settings in which runs differ, beside the figures by whose full names they are compared."""
        self._add_settings(dict(settings), list(figures))
        self._warn_once()

    def close(self) -> None:
        """Write the rest, and close the files."""
        self._writer.close()
        self._warn_once()

    def _add_to_tensorboard(self, settings: dict[str, str | float], figures: list[str]) -> None:
        """Write the settings into the log's own file; the library's method would open a second one below it."""
        from tensorboardX.summary import hparams

        for part in hparams(settings, dict.fromkeys(figures, 0.0)):
            self._writer.file_writer.add_summary(part)

    def _attempt(self, write: Callable[..., object], *arguments: object) -> None:
        """Call a function that writes, from the writer's thread, until one of the calls fails."""
        if self._error is None:
            try:
                write(*arguments)
            except OSError as error:
                self._error = error

    def _warn_once(self) -> None:
        if self._error is not None and not self._has_warned:
            self._has_warned = True
            _warn(self._folder, self._error)


class NullTracker:
    """The tracker of every process but the first: it logs nothing."""

    def add_scalars(self, values: Mapping[str, SupportsFloat], step: int, group: Group = "training") -> None:
        """Log nothing."""

    def add_pictures(self, name: str, pictures: Iterable[Image.Image], step: int) -> None:
        """Log nothing."""

    def add_text(self, name: str, text: str, step: int = 0) -> None:
        """Log nothing."""

    def add_settings(self, settings: Mapping[str, str | float], figures: Sequence[str]) -> None:
        """Log nothing."""

    def close(self) -> None:
        """Do nothing."""


def open_tracker(
    folder: str | Path, writer_type: WriterType, enabled: bool, output_dir: str | None = None, start: int = 0
) -> Tracker | NullTracker:
    """Open a log folder, or a tracker without effect unless `enabled`.

    The numbers also go into the output folder, for the report, behind those up to the step `start`.
    """
    if enabled:
        try:
            return Tracker(folder, writer_type, None if output_dir is None else Progress(output_dir, start))
        except OSError as error:
            _warn(Path(folder), error)
    return NullTracker()


def log_beginning(tracker: Tracker | NullTracker, record: Record, pictures: Sequence[Picture]) -> None:
    """Log what tells a run from others: its record, the settings that matter most, and its first pictures."""
    tracker.add_text("arguments", atomic.as_json(record))
    settings, flags = listing.compared(record), record["flags"]
    is_measured = any(flags.get(name) for name in ("keep_best", "clip_model_path", "validation_data_dir"))
    tracker.add_settings(settings, ["training/loss", *(["validation/score"] if is_measured else [])])
    tracker.add_pictures("subject", (_small(each.path) for each in pictures[:_LOGGED]), 0)


def _small(path: Path) -> Image.Image:
    picture = picture_files.open_picture(path)
    picture.thumbnail((_SIDE, _SIDE))
    return picture


def _warn(folder: Path, error: OSError) -> None:
    console.warn(f"{folder}: {disk.reason(error) or error.strerror}; the log ends here, and the run goes on")


def _open_visualdl(folder: Path, attempt: Callable[..., None]) -> Any:  # noqa: ANN401  the library's writer
    from visualdl import LogWriter
    from visualdl.io import bfile

    class Files(bfile.LocalFileSystem):  # type: ignore[misc]
        def write(self, *arguments: object) -> None:
            attempt(super().write, *arguments)

        def append(self, *arguments: object) -> None:
            attempt(super().append, *arguments)

    bfile.default_file_factory.register_filesystem("", Files())  # "": a path without a scheme such as hdfs://
    try:
        return LogWriter(logdir=str(folder), flush_secs=_SECONDS_BETWEEN_FLUSHES)
    finally:
        bfile.default_file_factory.register_filesystem("", bfile.LocalFileSystem())


def _open_tensorboard(folder: Path, attempt: Callable[..., None]) -> Any:  # noqa: ANN401  the library's writer
    from tensorboardX import SummaryWriter, record_writer

    class Files:
        """A kind of file system, as the library has them for stores in the cloud."""

        def directory_check(self, path: str) -> None:
            _without_prefix(path).mkdir(parents=True, exist_ok=True)

        def open(self, path: str) -> File:
            return File(_without_prefix(path))

    class File:
        def __init__(self, path: Path) -> None:
            self.file = open(path, "wb")  # noqa: SIM115  closed below

        def write(self, data: bytes) -> None:
            attempt(self.file.write, data)

        def flush(self) -> None:
            attempt(self.file.flush)

        def close(self) -> None:
            attempt(self.file.close)

    record_writer.register_writer_factory(_PREFIX, Files())
    return SummaryWriter(logdir=f"{_PREFIX}:{folder}", flush_secs=_SECONDS_BETWEEN_FLUSHES)


def _without_prefix(path: str) -> Path:
    return Path(path.removeprefix(f"{_PREFIX}:"))


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


class Summary:
    """What a run reports of itself: its expected time after some steps; at its end time, losses and peak of memory."""

    def __init__(self, steps: int, step: int = 0) -> None:
        self._steps, self._start, self._step = steps, step, step
        self._time = self._first = time.perf_counter()
        self._losses: dict[str, float] = {}

    def add(self, losses: Mapping[str, float], step: int) -> None:
        """Count the losses of a step; the mean forgets those of some fifty steps before."""
        self._step = step
        for name, value in losses.items():
            before = self._losses.setdefault(name, value)
            self._losses[name] = before + (value - before) / _SMOOTHED
        if step == self._start + 1:  # which takes longer than the others
            self._first = time.perf_counter()
        elif step == self._start + 1 + _TIMED and self._steps - step > _TIMED:
            of_one, left = (time.perf_counter() - self._first) / _TIMED, self._steps - step
            console.print_above_bar(f"time      about {_duration(of_one * left)} for the {left} updates to come")

    @override
    def __str__(self) -> str:
        seconds = time.perf_counter() - self._time
        if self._step == self._start:
            return f"no update was left to do; peak memory {_peak_memory() / 1e9:.1f} GB"
        losses = ", ".join(f"{name} {value:.4f}" for name, value in self._losses.items())
        steps = f"{_duration(seconds)} for {self._step - self._start} updates"
        return f"{steps}; smoothed {losses}; peak memory {_peak_memory() / 1e9:.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < _LONG:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 60 * _LONG else f"{seconds / 3600:.1f} hours"


def _peak_memory() -> int:
    """Return the peak memory in bytes: of the card if there is one, else of this process."""
    if processes.is_on_gpu():
        import paddle

        return int(paddle.device.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def files_in(folder: Path) -> list[Path]:
    """List the files that the writers of logs have left in a folder."""
    return [path for pattern in ("vdlrecords.*", "events.out.tfevents.*") for path in folder.glob(pattern)]


def watch_command(folder: str | Path, writer_type: WriterType) -> str:
    """Return the command that shows a log."""
    return f"{writer_type} --logdir {shlex.quote(str(folder))}"
