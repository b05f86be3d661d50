"""A finished result moves into a folder that may hold an earlier one: at every moment one of the two is whole.

The new parts are complete in `.pipeline.new`, inside the folder, before the first of them moves. A process that is
killed on the way leaves a folder that does not load, and the next command that reads it completes the move.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

from dreambooth.files import atomic
from dreambooth.system import disk
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

INDEX = "model_index.json"  # the file by which the folder of a pipeline loads
_NEW = ".pipeline.new"
_RECORD = "move.json"  # in it: the parts that move last, and those of the folder that become stale


@contextlib.contextmanager
def whole_parts(folder: Path, last: Sequence[str], owned: Collection[str], what: str) -> Iterator[Path]:
    """Yield a folder inside `folder`; when the block ends, flush it and move it into `folder`.

    `folder` loads by the files named in `last`, which arrive in this order after all other parts. `owned` names the
    parts of an earlier result; those that are not written anew are removed. Raises DiskFull, which names `what`.
    """
    finish_move(folder)
    try:
        with atomic.whole_folder(folder / _NEW) as temporary:
            yield temporary
            stale = sorted(name for name in {*owned, *last} if not os.path.lexists(temporary / name))
            atomic.write_json(temporary / _RECORD, {"last": list(last), "stale": stale})
    except disk.DiskFull as error:
        error.what = what
        error.whole = atomic.EARLIER if any(os.path.lexists(folder / name) for name in last) else atomic.NOTHING
        raise
    finish_move(folder)


def finish_move(folder: Path, flag: str = "--output_dir") -> None:
    """Complete the move of new parts into `folder`, where a process was stopped in the middle of it.

    Raises BadInput, which names `flag`, where the folder cannot be written.
    """
    new = folder / _NEW
    if new.is_symlink() or not new.is_dir():
        return
    try:
        if not (new / _RECORD).exists():  # all parts have moved
            atomic.remove(new)
            return
        with open(new / _RECORD, "r+b") as record:
            atomic.lock(record.fileno())
            if os.fstat(record.fileno()).st_nlink:  # else another process has completed the move meanwhile
                last, stale = _read_record(json.load(record))
                _move(new, folder, last, stale)
    except (OSError, ValueError, RecursionError) as error:
        if not new.exists():  # as another process saw to, where the file system has no locks
            return
        if reason := disk.reason(error):
            whole = f"the new parts are whole in {new}; the next command that reads {folder} moves them in"
            raise disk.DiskFull(folder, whole=whole, reason=reason) from error
        raise BadInput(
            f"{flag} {folder}: a run was stopped while it moved its result in, and the move can't be completed"
            f" ({error}); make the folder writable, or give a copy of it with its hidden files"
        ) from error


def _read_record(record: object) -> tuple[list[str], list[str]]:
    """Return the names of a move's record: those that move last, and the stale ones. The folder may be a stranger's."""
    if not isinstance(record, dict) or record.keys() != {"last", "stale"}:
        raise ValueError(f"{_RECORD} is damaged")
    for names in record.values():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{_RECORD} is damaged")
        for name in names:
            if name in ("", ".", "..") or name != os.path.basename(name):
                raise ValueError(f"{_RECORD} names {name!r}")
    return record["last"], record["stale"]


def _move(new: Path, folder: Path, last: list[str], stale: list[str]) -> None:
    """Move new parts into a folder, which does not load until all of them are there and nothing of the old ones is.

    Each step may have been done already, by a process that was killed after it.
    """
    for name in reversed(last):
        if name in stale or os.path.lexists(new / name):
            atomic.remove(folder / name)
    atomic.flush(folder)
    for name in stale:
        atomic.remove(folder / name)
    for part in sorted(new.iterdir()):
        if part.name not in (*last, _RECORD):
            atomic.remove(folder / part.name)
            part.rename(folder / part.name)
    for name in last:
        atomic.flush(folder)
        if os.path.lexists(new / name):
            (new / name).rename(folder / name)
    atomic.flush(folder)
    (new / _RECORD).unlink()
    atomic.remove(new)
