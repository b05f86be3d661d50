"""The log: numbers, pictures and text, for VisualDL or TensorBoard."""

import numpy as np

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

    def scalars(self, values, step):
        for name, value in values.items():
            self.writer.add_scalar(name, float(value), step)

    def images(self, name, pictures, step):
        for number, picture in enumerate(pictures):
            pixels = np.asarray(picture.convert("RGB"))
            self.writer.add_image(f"{name}/{number}", pixels, step, dataformats="HWC")

    def text(self, name, text, step=0):
        self.writer.add_text(name, text, step)

    def flush(self):
        (self.writer._file_writer if self.visualdl else self.writer).flush()

    def close(self):
        self.writer.close()


class Silence:
    """The tracker of every process but the first."""

    def scalars(self, values, step):
        pass

    images = text = scalars

    def flush(self):
        pass

    close = flush


def how_to_watch(folder, writer_type):
    """The command that shows a log."""
    return f"visualdl --logdir {folder}" if writer_type == "visualdl" else f"tensorboard --logdir {folder}"
