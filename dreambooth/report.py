"""Make the page of a run, or of several runs to compare, for a browser.

    python -m dreambooth.report --model_path ./dream_outputs
    python -m dreambooth.report ./run_1 ./run_2 ./run_3 --output comparison.html

A run makes its page by itself, at each validation and at its end. The page is one file, and loads nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.config import parser
from dreambooth.config.commands import ReportSettings
from dreambooth.files import atomic, records
from dreambooth.run import checkpoints, output_folder
from dreambooth.run.report import comparing, contents, progress, single
from dreambooth.system import console, disk
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.run.report.contents import Run, State

_COMPARISON = "comparison.html"


def read_settings(argv: Sequence[str]) -> ReportSettings:
    """Read the command line; folders may stand there without a flag."""
    if argv and not argv[0].startswith("-"):
        argv = ["--model_path", *argv]
    return parser.read_settings(ReportSettings, argv, prog="python -m dreambooth.report", description=__doc__)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    settings = read_settings(argv)
    folders = [Path(each) for each in settings.model_path]
    default = Path(_COMPARISON) if len(folders) > 1 else folders[0] / output_folder.REPORT
    path = Path(settings.output) if settings.output else default
    runs = [read_run(*named, len(folders)) for named in zip(folders, comparing.names(folders))]
    disk.check_writable(path, "--output", is_file=True)
    atomic.write_text(path, single.page(runs[0]) if len(runs) == 1 else comparing.page(runs))
    print(path)


def read_run(folder: Path, name: str, runs: int = 1) -> Run:
    """Read a run from its folder, whatever state it is in; what is no run is a BadInput."""
    if not folder.is_dir():
        raise BadInput(f"--model_path {folder}: there is no such folder")
    if (folder / records.STATE).is_file():
        raise BadInput(f"--model_path {folder}: it is a checkpoint; give the folder of its run, {folder.parent}")
    whole, _ = checkpoints.scan(folder)
    result = records.read_result(folder)
    state: State = "finished"
    if whole and output_folder.lacks_result(folder, whole[-1]):
        state = "running" if _is_in_use(folder) else "stopped"
        result = whole[-1].state["arguments"]
    if result is None:
        what = "no result and no checkpoint yet" if _is_in_use(folder) else "neither a result nor a checkpoint of a run"
        raise BadInput(f"--model_path {folder}: it has {what}")
    try:
        steps = int(result["steps"]) if state == "finished" else max(
            [whole[-1].state["step"], *(row.step for row in progress.read(folder))])  # fmt: skip
        if not isinstance(result["flags"], dict) or not all(each["prompt"] for each in result["concepts"]):
            raise TypeError("no settings, or no prompts")
        return contents.of_folder(folder, result, state, steps, name=name, runs=runs)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError) as error:
        kind = type(error).__name__
        raise BadInput(f"--model_path {folder}: its record can't be read ({kind}: {error})") from error


def _is_in_use(folder: Path) -> bool:
    """Check whether a run has the folder's lock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return not atomic.try_lock(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    console.run_command(main)
