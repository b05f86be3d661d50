"""A command as the user sees it: its exit code, its one-line errors, its messages, its progress bar, its signals."""

import errno
import os
import shutil
import signal
import sys
from pathlib import Path

from dreambooth.system import processes
from dreambooth.system.errors import BadInput, Stopped


def print_message(message, file=None):
    """Print one message, from the first process only."""
    if processes.is_first():
        print(message, file=file or sys.stdout, flush=True)


def warn(message):
    print_message(f"warning: {message}", file=sys.stderr)


def progress_bar(steps=None, **settings):
    """A progress bar that the first process shows; a file or pipe gets a line every few seconds instead of ten a
    second."""
    from tqdm import tqdm

    return tqdm(steps, disable=not processes.is_first(), mininterval=0.1 if sys.stderr.isatty() else 5, **settings)


def run_command(main, argv=None):
    """Call main(argv) and end the process with its exit code."""
    use_utf8()
    argv = sys.argv[1:] if argv is None else argv
    try:
        main(argv)
        processes.finish()
    except (BadInput, Stopped) as error:
        if "--verbose" in argv and error.__cause__:
            raise
        print_error(error)
        sys.exit(getattr(error, "code", 2))
    except OSError as error:
        if "--verbose" in argv or not error.filename:
            raise
        print_error(f"{error.filename}: {error.strerror}")
        sys.exit(1 if error.errno == errno.ENOSPC else 2)
    except KeyboardInterrupt:
        print_message("interrupted", file=sys.stderr)
        sys.exit(130)


def use_utf8():
    """Begin again in UTF-8 where the locale could not read the command line, as with Chinese prompts under LC_ALL=C;
    and print whatever a terminal can't show as its code."""
    unread = any("\udc80" <= letter <= "\udcff" for argument in sys.argv for letter in argument)
    if unread and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def print_error(error):
    """Each process says what stopped it: on another machine it may be something else. The launcher shows the first's;
    the others' are in their logs."""
    process = "" if processes.is_first() else f" in process {processes.rank()}"
    print(f"error{process}: {error}", file=sys.stderr, flush=True)


def python_command():
    """How this Python is called from here: `python` where that is this one."""
    found = shutil.which("python")
    if found and os.path.samefile(os.path.dirname(found), os.path.dirname(sys.executable)):
        return "python"
    return relative_path(sys.executable)


def script_command(script):
    """How one of the tool's scripts is called from here: (python, script)."""
    return python_command(), relative_path(Path(__file__).parents[2] / script)


def relative_path(path):
    """A path as seen from the current folder, where it lies below it."""
    relative = os.path.relpath(path)
    return os.path.abspath(path) if relative.startswith("..") else relative


class StopRequest:
    """Within it, Ctrl-C and SIGTERM do not end the process but set `signal`, so that the loop can finish its step and
    write a checkpoint. A second Ctrl-C ends it at once."""

    def __init__(self):
        self.signal = None

    def __enter__(self):
        self.before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        for each in self.before:
            processes.handle_signal(each, self.note)
        return self

    def note(self, number, frame):
        self.signal = number
        processes.handle_signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *error):
        for each, handler in self.before.items():
            processes.handle_signal(each, handler)
