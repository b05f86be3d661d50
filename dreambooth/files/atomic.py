"""Files and folders that are whole or absent."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(folder):
    """A folder to write in beside `folder`, flushed to disk and renamed to it when all is there."""
    folder = Path(folder)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    for path in unfinished.rglob("*"):
        if path.is_file():
            flush(path)
    if folder.exists():
        replaced = folder.with_name(f".{folder.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
        unfinished.rename(folder)
        shutil.rmtree(replaced)
    else:
        unfinished.rename(folder)
    flush(folder.parent)


def flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def files_in(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


@contextmanager
def file_written_whole(place):
    """A path to write to beside `place`, flushed to disk and renamed to it when all is there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_name(f".{place.name}.unfinished")
    yield unfinished
    flush(unfinished)
    unfinished.rename(place)


def can_be_written(folder):
    """Whether a folder, or the nearest one above that is there, lets itself be written in."""
    nearest = next(each for each in (folder, *folder.resolve().parents) if each.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path, settings):
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_text(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
