"""The two ways in which a command ends early on purpose."""

from __future__ import annotations


class BadInput(Exception):
    """An input that cannot be used: one line that names the flag or the file, and the remedy."""


class Stopped(Exception):
    """An early end that is explained; `code` is the exit code of the process."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
