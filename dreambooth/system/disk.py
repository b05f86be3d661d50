"""The disk: where it can be written, how to recognize a full one, and the one line that it ends in."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from typing import TYPE_CHECKING

from dreambooth.system.errors import BadInput, Stopped
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full (its quota is used up)",
    errno.EFBIG: "the disk is full (it allows no file of that size)",
}
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # NumPy's tofile, which loses the number of the error
_ALMOST_NONE = 2**20  # free bytes; with fewer, whatever stopped a writer was the full disk


class DiskFull(Stopped):
    """A result without room: `what` was being written, how many bytes are `missing` (0: unknown), what is `whole`."""

    def __init__(self, what: object, missing: int = 0, whole: str = "", reason: str = _REASONS[errno.ENOSPC]) -> None:
        super().__init__(reason, code=1)
        self.what, self.missing, self.whole, self.reason = what, missing, whole, reason

    @override
    def __str__(self) -> str:
        missing = f", {-(-self.missing // 10**6)} MB are missing" if self.missing > 0 else ""
        return f"{self.what}: {self.reason}{missing}" + (f"; {self.whole}" if self.whole else "")


def reason(error: BaseException | None) -> str:
    """Return how an exception, or one behind it, describes a full disk; an empty string where none does."""
    while error is not None:
        if isinstance(error, DiskFull):
            return error.reason
        text = str(error)
        for number, found in _REASONS.items():
            # libraries, those in Rust and C++ among them, wrap the system's error in their own
            if getattr(error, "errno", None) == number or os.strerror(number) in text or f"(os error {number})" in text:
                return found
        if isinstance(error, OSError) and error.errno is None and _SHORT_WRITE.search(text):
            return _REASONS[errno.ENOSPC]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return ""


def as_full(error: BaseException) -> DiskFull | None:
    """Return the error of a full disk that an exception, or one behind it, describes; None where none does."""
    found = reason(error)
    if not found or isinstance(error, DiskFull):
        return error if isinstance(error, DiskFull) else None
    return DiskFull(getattr(error, "filename", None) or "the output or a temporary file", reason=found)


@contextlib.contextmanager
def explained(sentence: Callable[[], str]) -> Iterator[None]:
    """Add a sentence to the error of a full disk: what else is whole, or how to go on."""
    try:
        yield
    except Exception as error:
        full = as_full(error)
        if full is None:
            raise
        full.whole = f"{full.whole}; {sentence()}" if full.whole else sentence()
        if full is not error:
            raise full from error
        raise


def reason_in(folder: Path, error: BaseException) -> str:
    """Return the same for an exception of a writer: in a folder without space, any failure is the full disk's."""
    explained = isinstance(error, (BadInput, Stopped, MemoryError)) or not isinstance(error, Exception)
    if (found := reason(error)) or explained:
        return found
    free = free_space(folder)
    return _REASONS[errno.ENOSPC] if free is not None and free < _ALMOST_NONE else ""


def free_space(folder: Path) -> int | None:
    """Return the bytes free to this user where `folder` is or will be; None where that is unknown."""
    try:
        found = os.statvfs(next(each for each in (folder, *folder.resolve().parents) if each.exists()))
    except OSError:
        return None
    blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    return blocks * found.f_frsize if found.f_blocks else None


def require(folder: Path, size: int) -> None:
    """Raise DiskFull where `size` bytes have no room in `folder`."""
    if missing := missing_space(folder, size):
        raise DiskFull(folder, missing)


def missing_space(folder: Path, size: int) -> int:
    """Return how many of `size` bytes have no room where `folder` is, as far as that is known."""
    free = free_space(folder)
    return 0 if free is None else max(0, size - free)


def can_be_written(folder: Path) -> bool:
    """Check whether a folder can be written in; one that is not there, whether it can be made."""
    try:
        if any(each.is_symlink() and not each.exists() for each in (folder, *folder.parents)):
            return False  # it leads nowhere
        nearest = next(each for each in (folder, *folder.resolve().parents) if each.exists())
        if nearest != folder:
            tempfile.TemporaryDirectory(prefix=".", dir=nearest).cleanup()
    except OSError:  # a name that is too long, no folder, a disk that can only be read
        return False
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def check_writable(path: Path, flag: str, is_file: bool = False) -> None:
    """Refuse a folder, or a file, that cannot be written; the message names the flag."""
    if (is_file and path.is_dir()) or not can_be_written(path.parent if is_file else path):
        raise BadInput(f"{flag} {path}: it can't be written there")
