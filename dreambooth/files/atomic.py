"""Whole files and folders: written beside their place, flushed and renamed, so that each is whole or absent.

What a killed process leaves behind is hidden, and nothing takes it for a result: `.NAME.TOKEN.unfinished` was being
written or removed, and `.NAME.replaced` is a folder that made way for its successor. The process at work holds a lock
on each, so one without a lock is abandoned.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from typing import TYPE_CHECKING, Any

from dreambooth.system import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from PIL import Image

    from dreambooth.system.types import JSON

EARLIER, NOTHING = "the earlier one is whole", "nothing of it is left"  # after a full disk
_UNFINISHED, _REPLACED = ".unfinished", ".replaced"
_TEMPORARY = re.compile(rf"\..*\.[0-9a-f]{{8}}{_UNFINISHED}|\.(\d+|checkpoint-\d+|pipeline){_UNFINISHED}")  # and older
_CLEANED: set[Path] = set()  # the folders in which this process has looked for what others left
_ABANDONED_AFTER = 24 * 3600  # seconds without a change, where the file system has no locks
_NO_DIRECTORY_FLUSH = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # file systems that flush files alone


@contextlib.contextmanager
def whole_file(path: Path, size: int = 0, replace: bool = True) -> Iterator[Path]:
    """Yield a path beside `path`; when the block ends, flush it and rename it to `path`.

    `size` is the number of bytes to come, where known. Without `replace`, a file that is there by then stays as it is.
    A device or a pipe, such as /dev/stdout, is written to directly. Raises DiskFull.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve() if path.is_symlink() else path
    with _temporary(path, size, _create_file) as temporary:
        yield temporary
        flush(temporary)
        if replace:
            temporary.replace(path)
        else:
            _rename_unless_there(temporary, path)
        flush(path.parent)


@contextlib.contextmanager
def whole_folder(path: Path, size: int = 0) -> Iterator[Path]:
    """Yield a folder beside `path`; when the block ends, flush it and rename it to `path`.

    An earlier folder stays until then. `size` is the number of bytes to come, where known. Raises DiskFull.
    """
    _if_abandoned(_replaced(path), _put_back, age=0)
    with _temporary(path, size, _create_folder) as temporary:
        yield temporary
        for each in (*temporary.rglob("*"), temporary):
            if not each.is_symlink():
                flush(each)
        if os.path.lexists(path):
            _take_place(temporary, path)
        else:
            temporary.rename(path)
        flush(path.parent)


def clean(folder: Path) -> None:
    """Remove leftovers of killed processes in `folder`, and put back a folder that was to be replaced.

    What a living process is writing stays. A process does this by itself in each folder that it writes in.
    """
    _CLEANED.add(folder)
    for path in folder.glob(f".*{_UNFINISHED}"):
        if _TEMPORARY.fullmatch(path.name):
            _if_abandoned(path, remove, _ABANDONED_AFTER)
    for path in folder.glob(f".*{_REPLACED}"):
        if path.is_dir():
            _if_abandoned(path, _put_back, age=0)


def remove_folder(folder: Path) -> None:
    """Remove a folder that is whole or absent at every moment."""
    doomed = _beside(folder)
    folder.rename(doomed)
    remove(doomed)


def files_in(folder: Path) -> list[Path]:
    """Return the files in a folder and in those below it, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_DIRECTORY_FLUSH):
            raise
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> None:
    """Wait for the lock on an open file; do without where the file system has no locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(descriptor: int) -> bool:
    """Hold a descriptor's lock until it is closed; False where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_picture(
    path: Path, picture: Image.Image, text: Mapping[str, Any] | None = None, replace: bool = True, **settings: Any
) -> None:
    """Write a PNG file whole, with texts by name; `replace` is that of `whole_file`, `settings` are Pillow's."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for name, value in (text or {}).items():
        chunks.add_itxt(name, text_in_picture(value))
    with whole_file(path, replace=replace) as temporary:
        picture.save(temporary, format="PNG", pnginfo=chunks, **settings)


def text_in_picture(value: object) -> str:
    """Return a value as the text that a picture can hold: a name of a file that is no UTF-8 has ? for what is none."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def read_json(path: Path) -> JSON:
    """Read a JSON file that holds an object; whatever is wrong with its text is a ValueError."""
    try:
        if isinstance(found := json.loads(path.read_text(encoding="utf-8")), dict):
            return found
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    raise ValueError("it is no JSON object")


def write_json(path: Path, value: JSON) -> None:
    """Write a JSON file whole."""
    write_text(path, as_json(value))


def as_json(value: JSON) -> str:
    """Return a value as JSON for people to read."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def _temporary(path: Path, size: int, create: Callable[[Path], int]) -> Iterator[Path]:
    """Yield a new locked path beside `path`, which is gone when the block fails; a full disk becomes DiskFull."""
    whole = EARLIER if os.path.lexists(path) else NOTHING
    temporary, descriptor = None, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in _CLEANED:
            clean(path.parent)
        disk.require(path.parent, size)
        temporary, descriptor = _claim(path, create)
        yield temporary
    except BaseException as error:
        reason = disk.reason_in(path.parent, error)
        missing = getattr(error, "missing", 0)
        if temporary is not None:
            with contextlib.suppress(OSError):
                remove(temporary)
        if not reason:
            raise
        raise disk.DiskFull(path, missing or disk.missing_space(path.parent, size), whole, reason) from error
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _beside(path: Path) -> Path:
    name = path.name.strip(".")[:60]  # of at most 255 bytes in all
    return path.with_name(f".{name}.{secrets.token_hex(4)}{_UNFINISHED}")


def _claim(path: Path, create: Callable[[Path], int]) -> tuple[Path, int]:
    """Create a temporary path; return it with the descriptor that holds its lock."""
    while True:
        temporary = _beside(path)
        descriptor = create(temporary)
        lock(descriptor)
        if temporary.exists():
            return temporary, descriptor
        os.close(descriptor)  # another process's `clean` came between the two


def _create_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _create_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _if_abandoned(path: Path, act: Callable[[Path], None], age: float) -> None:
    """Act on a path without a holder, or `age` seconds old where there are no locks; others may act too: no errors."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_NOFOLLOW)
        try:
            if _is_free(descriptor, path, age):
                act(path)
        finally:
            os.close(descriptor)


def _is_free(descriptor: int, path: Path, age: float) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - max(each.lstat().st_mtime for each in (path, *path.rglob("*"))) >= age


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}{_REPLACED}")


def _take_place(temporary: Path, path: Path) -> None:
    """Rename a folder to the name of an earlier one, and remove that one."""
    replaced = _replaced(path)
    remove(replaced)
    earlier = os.open(path, os.O_RDONLY)
    try:
        lock(earlier)
        path.rename(replaced)
        try:
            temporary.rename(path)
        except OSError:
            replaced.rename(path)
            raise
        flush(path.parent)
        with contextlib.suppress(OSError):  # its successor is there; `clean` tries once more
            remove(replaced)
    finally:
        os.close(earlier)


def _put_back(replaced: Path) -> None:
    """Give a folder its name again, unless its successor has it."""
    path = replaced.with_name(replaced.name[1 : -len(_REPLACED)])
    if os.path.lexists(path):
        remove(replaced)
    else:
        replaced.rename(path)


def _rename_unless_there(temporary: Path, path: Path) -> None:
    """Rename a file; where one of that name has come meanwhile, drop the new one."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not path.exists():
            temporary.rename(path)
    remove(temporary)
