"""The log: numbers, pictures and text, for VisualDL or TensorBoard."""

import re
import resource
import time

import numpy as np

from dreambooth.system import processes

SECONDS_BETWEEN_FLUSHES = 10


class Tracker:
    """One log folder under one of the two writers, which differ by a few names."""

    def __init__(self, folder, writer_type):
        self.visualdl = writer_type == "visualdl"
        if self.visualdl:
            from visualdl import LogWriter

            self.writer = LogWriter(logdir=str(folder), flush_secs=SECONDS_BETWEEN_FLUSHES)
        else:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(logdir=str(folder), flush_secs=SECONDS_BETWEEN_FLUSHES)

    def add_scalars(self, values, step):
        for name, value in values.items():
            self.writer.add_scalar(name, float(value), step)

    def add_pictures(self, name, pictures, step):
        name = re.sub(r"[^-/\w.]+", "_", name)  # what both writers take in a name
        for number, picture in enumerate(pictures):
            pixels = np.asarray(picture.convert("RGB"))
            self.writer.add_image(f"{name}/{number}", pixels, step, dataformats="HWC")

    def add_text(self, name, text, step=0):
        self.writer.add_text(name, text, step)

    def close(self):
        self.writer.close()


class NullTracker:
    """The tracker of every process but the first."""

    def ignore(self, *record, **more):
        pass

    add_scalars = add_pictures = add_text = close = ignore


def open_tracker(folder, writer_type, enabled):
    return Tracker(folder, writer_type) if enabled else NullTracker()


class Speed:
    """Pictures per second since the last look, those of the class among them, and the most memory in use."""

    def __init__(self, pictures_per_step, step=0):
        self.pictures = pictures_per_step
        self.step, self.time = step, time.perf_counter()

    def measure(self, step):
        now = time.perf_counter()
        rate = (step - self.step) * self.pictures / (now - self.time)
        self.step, self.time = step, now
        return {"pictures_per_second": rate, "memory_gb": peak_memory() / 1e9}


def peak_memory():
    """Bytes at most in use: on the card where there is one, else in this process."""
    if processes.is_on_gpu():
        import paddle

        return paddle.device.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def watch_command(folder, writer_type):
    """The command that shows a log."""
    return f"visualdl --logdir {folder}" if writer_type == "visualdl" else f"tensorboard --logdir {folder}"
