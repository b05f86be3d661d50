"""A command in the terminal: its exit code, its one-line errors, its messages, its progress bar, its signals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.system import disk, processes
from dreambooth.system.errors import BadInput, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import FrameType, TracebackType
    from typing import TextIO

    from tqdm import tqdm

_STOPPING = b"\nstopping after this step, with a checkpoint; a second Ctrl-C ends at once, without one\n"
_OUT_OF_MEMORY = (
    "out of memory; a smaller --train_batch_size, --batch_size or --resolution, --gradient_checkpointing,"
    " --early_update and --lora_rank take less, as docs/memory.md explains"
)
_SECONDS_BETWEEN_LINES = 5  # of a progress bar in a file or a pipe
# user and password in an address, and what opens something in its query; Hugging Face's tokens
_SECRETS = {
    r"(?<=://)[^/\s]+(?=@)": "***",
    r"(?i)([?&][\w.-]*(?:token|key|sign|sig|secret|password|passwd|pwd|auth|credential|policy)[\w.-]*=)[^&\s\"'<>)]+":
        r"\1***",
    r"\bhf_[A-Za-z0-9]{20,}": "hf_***",
}  # fmt: skip
_SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SHORTEST_SECRET = 6  # letters; a shorter one would be found in words


def print_message(message: object, file: TextIO | None = None) -> None:
    """Print one message, from the first process only."""
    if processes.is_first():
        print(without_secrets(str(message)), file=file or sys.stdout, flush=True)


def print_above_bar(message: str) -> None:
    """Print one message, from the first process only, while a progress bar is shown."""
    from tqdm import tqdm

    if processes.is_first():
        if not sys.stderr.isatty():  # a file, in which the bar has left an unfinished line
            print(file=sys.stderr, flush=True)
        tqdm.write(message)


def warn(message: str) -> None:
    """Print one warning on standard error, from the first process only."""
    print_message(f"warning: {_in_one_line(message)}", file=sys.stderr)


def without_secrets(text: str) -> str:
    """Return a text without the passwords and tokens in its addresses, and without the user's own token."""
    for name in _SECRET_VARIABLES:
        if len(value := os.environ.get(name, "").strip()) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    for pattern, replacement in _SECRETS.items():
        text = re.sub(pattern, replacement, text)
    return text


def _in_one_line(message: object) -> str:
    """Return a message without secrets; a name of a file may have line breaks."""
    return without_secrets(str(message)).replace("\r", "\\r").replace("\n", "\\n")


def progress_bar(steps: Iterable[Any] | None = None, **settings: Any) -> tqdm:
    """Make a tqdm bar that only the first process shows.

    A terminal gets ten states a second, a file or a pipe one line every few seconds.
    """
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else _SECONDS_BETWEEN_LINES
    return tqdm(steps, disable=not processes.is_first(), mininterval=interval, **settings)


def run_command(main: Callable[[Sequence[str]], object], argv: Sequence[str] | None = None) -> None:
    """Call main(argv) and end the process with its exit code.

    An expected error becomes one line on standard error; --verbose also shows its cause.
    """
    _use_utf8()
    sys.excepthook = _print_traceback
    argv = sys.argv[1:] if argv is None else argv
    try:
        main(argv)
        processes.finish()
    except (BadInput, Stopped) as error:
        if "--verbose" in argv and error.__cause__:
            raise
        code = getattr(error, "code", 2)
        if code > 128:  # a signal stopped it, which is no error
            print_message(error, file=sys.stderr)
        else:
            print_error(error)
        sys.exit(code)
    except KeyboardInterrupt:
        print_message("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        full = disk.as_full(error)
        if "--verbose" not in argv and not full and is_want_of_memory(error):
            print_error(_OUT_OF_MEMORY)
            sys.exit(1)
        if "--verbose" in argv or not (full or (isinstance(error, OSError) and error.filename)):
            raise
        print_error(full or f"{getattr(error, 'filename', '')}: {getattr(error, 'strerror', '')}")
        sys.exit(1 if full else 2)


def is_want_of_memory(error: Exception) -> bool:
    """Check whether an error is one of memory, of the machine's or a card's."""
    return isinstance(error, MemoryError) or "ResourceExhausted" in str(error) or "out of memory" in str(error).lower()


def amount(number: float) -> str:
    """Return a number of bytes in a unit that people read."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _use_utf8() -> None:
    """Read arguments as UTF-8, and print a character that the terminal lacks as its code.

    Under LC_ALL=C Python does not decode Chinese prompts; then this starts the process again in UTF-8 mode.
    """
    undecoded = any("\udc80" <= letter <= "\udcff" for argument in sys.argv for letter in argument)
    if undecoded and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def print_error(error: object) -> None:
    """Print what ended this process, unless the first process ends too: then its message is the only one.

    On another machine the reason may differ, and no launcher ends the process before it speaks.
    """
    print(f"error{processes.give_way()}: {_in_one_line(error)}", file=sys.stderr, flush=True)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an unexpected error as Python does, but without secrets."""
    print(without_secrets("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr, flush=True)


def python_command() -> str:
    """Return the shortest command that starts this Python from the current folder."""
    found = shutil.which("python")
    if found and os.path.samefile(os.path.dirname(found), os.path.dirname(sys.executable)):
        return "python"
    return relative_path(sys.executable)


def script_command(script: str) -> tuple[str, str]:
    """Return (python, script): the command that starts one of the project's scripts from the current folder."""
    return python_command(), relative_path(Path(__file__).parents[2] / script)


def relative_path(path: str | Path) -> str:
    """Return a path relative to the current folder if it lies below that, else the absolute path."""
    relative = os.path.relpath(path)
    return os.path.abspath(path) if relative.startswith("..") else relative


class StopRequest:
    """A context in which Ctrl-C and SIGTERM set `signal` instead of ending the process.

    The loop can then finish its step and write a checkpoint. A second Ctrl-C ends the process at once.
    """

    signal: int | None

    def __init__(self) -> None:
        self.signal = None

    def __enter__(self) -> StopRequest:
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in self._handlers:
            processes.handle_signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None and processes.is_first():
            os.write(2, _STOPPING)  # a print may have been interrupted
        self.signal = number
        processes.handle_signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            processes.handle_signal(number, handler)
