"""Run a command: bad input is one line and exit code 2, an interrupt is one line, and neither shows a traceback."""

import errno
import os
import shutil
import sys
from pathlib import Path

from dreambooth import dist
from dreambooth.system.errors import BadInput, Stopped


def run(main, argv=None):
    """Call main(argv) and end the process with its exit code."""
    speak_utf8()
    argv = sys.argv[1:] if argv is None else argv
    try:
        main(argv)
        dist.finish()
    except (BadInput, Stopped) as error:
        if "--verbose" in argv and error.__cause__:
            raise
        complain(error)
        sys.exit(getattr(error, "code", 2))
    except OSError as error:
        if "--verbose" in argv or not error.filename:
            raise
        complain(f"{error.filename}: {error.strerror}")
        sys.exit(1 if error.errno == errno.ENOSPC else 2)
    except KeyboardInterrupt:
        dist.say("interrupted", file=sys.stderr)
        sys.exit(130)


def speak_utf8():
    """Begin again in UTF-8 where the locale could not read the command line, as with Chinese prompts under LC_ALL=C;
    and print whatever a terminal can't show as its code."""
    unread = any("\udc80" <= letter <= "\udcff" for argument in sys.argv for letter in argument)
    if unread and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def complain(error):
    """Each process says what stopped it: on another machine it may be something else. The launcher shows the first's;
    the others' are in their logs."""
    process = "" if dist.is_first() else f" in process {dist.rank()}"
    print(f"error{process}: {error}", file=sys.stderr, flush=True)


def python():
    """How this Python is called from here: `python` where that is this one."""
    found = shutil.which("python")
    if found and os.path.samefile(os.path.dirname(found), os.path.dirname(sys.executable)):
        return "python"
    return near(sys.executable)


def of(script):
    """How one of the tool's scripts is called from here: (python, script)."""
    return python(), near(Path(__file__).parent.parent / script)


def near(path):
    """A path as seen from the current folder, where it lies below it."""
    relative = os.path.relpath(path)
    return os.path.abspath(path) if relative.startswith("..") else relative
