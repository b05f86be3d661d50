"""Run a command: bad input is one line and exit code 2, an interrupt is one line, and neither shows a traceback."""

import sys

from dreambooth import dist
from dreambooth.config import BadInput


class Stopped(Exception):
    """The run ended early and said why; `code` is the process's exit code."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


def run(main, argv=None):
    """Call main(argv) and end the process with its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        main(argv)
        dist.finish()
    except (BadInput, Stopped) as error:
        if "--verbose" in argv and error.__cause__:
            raise
        dist.say(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "code", 2))
    except KeyboardInterrupt:
        dist.say("interrupted", file=sys.stderr)
        sys.exit(130)


def python():
    """How this Python is called from here: `python` where that is this one."""
    import os
    import shutil

    found = shutil.which("python")
    if found and os.path.samefile(found, sys.executable):
        return "python"
    near = os.path.relpath(sys.executable)
    return sys.executable if near.startswith("..") else near
