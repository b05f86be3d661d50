"""Check what works on this machine: its card, or else its CPU.

    python -m dreambooth.selfcheck
    python -m dreambooth.selfcheck --operations

It computes single operations in each precision, then makes short runs of the embedded model, and compares both with the
CPU. At its end stands a report, without names of folders or of the user, for whoever is to know of it. The exit code is
1 where anything failed.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.config import commands, parser
from dreambooth.config.fields import flag
from dreambooth.files import weight_files
from dreambooth.run.trials import findings, operations, short_runs
from dreambooth.system import console, disk, libraries, machine, processes
from dreambooth.system.devices import cards

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dreambooth.run.trials.findings import Finding


# fmt: off
@dataclass(frozen=True)
class SelfcheckSettings(commands.CommandFlags, title="extent"):
    """The settings of dreambooth.selfcheck."""

    operations: bool = flag(
        "check single operations alone: half a minute", False)
# fmt: on


def read_settings(argv: Sequence[str]) -> SelfcheckSettings:
    """Read the command line."""
    program = "python -m dreambooth.selfcheck"
    return parser.read_settings(SelfcheckSettings, argv, prog=program, description=__doc__)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    settings = read_settings(argv)
    os.environ.setdefault(short_runs.TF32, "0")
    libraries.load(weight_files.READERS, settings.verbose)
    facts = collect_facts()
    for name, fact in facts.items():
        print(f"{name:<10} {fact}")
    print(f"\n{findings.HEADER}", flush=True)
    found = []
    for finding in find(settings.operations):
        found.append(finding)
        print(finding.row(), flush=True)
    failures = sum(each.result == "fail" for each in found)
    checked = f"{len(found)} checks" + (f", {failures} failed" if failures else ", none failed")
    print(f"\n{checked}\n\nThe report, to be copied:\n\n{findings.report(facts, found)}")
    sys.exit(bool(failures))


def collect_facts() -> dict[str, str]:
    """Collect the versions, the device and what is free of it; no names of the machine or the user."""
    import paddle

    build = f"CUDA {cards.cuda_version()}" if paddle.is_compiled_with_cuda() else "CPU"
    free = disk.free_space(Path(tempfile.gettempdir()))
    facts = {
        "system": platform.platform(),
        "processor": f"{machine.processor_name()}, {machine.cores()} cores",
        "python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version}" for name, version in libraries.versions().items()),
        "paddle": f"build for {build}",
        "disk": f"{free / 1e9:.1f} GB free" if free is not None else "unknown",
    }
    if not processes.is_on_gpu():
        reason = libraries.reason_against_card() or "this machine shows none"
        return {
            **facts,
            "card": f"no card was checked: {reason}",
            "compared": "the CPU with its oldest code on one core",
        }
    facts["card"] = machine.in_words(cards.describe())
    facts["memory"] = "; ".join(cards.query("name,memory.total,memory.free"))
    return {**facts, "compared": "the card with the CPU"}


def find(operations_alone: bool) -> Iterator[Finding]:
    """Yield what is found, in the order of the checks."""
    yield from operations.check_cpu()
    if processes.is_on_gpu():
        yield from operations.check_cards()
    elif reason := libraries.reason_against_card():
        yield findings.failed("the card of this machine", "card", "", reason)
    if not operations_alone:
        folder = Path(tempfile.mkdtemp(prefix="dreambooth-selfcheck-"))
        try:
            yield from short_runs.check_runs(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    console.run_command(main)
