"""The end of a run: its result and the command that draws with it, or the reason of an early end."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dreambooth.run import output_folder
from dreambooth.system import console
from dreambooth.system.errors import Stopped

if TYPE_CHECKING:
    from dreambooth.config.config import Result
    from dreambooth.config.run_sections import SavingSettings
    from dreambooth.models.family.facts import FamilyFacts


def describe_result(
    saving: SavingSettings, result: Result, prompt: str, summary: str, facts: FamilyFacts, choice: str | None = None
) -> None:
    """Print how the run went, whose weights were chosen, where the result is, and the command that draws with it."""
    console.print_message(f"done      {summary}")
    if choice:
        console.print_message(f"best      {choice}")
    command = draw_command(saving.output_dir, prompt, facts, *console.script_command("infer.py"))
    console.print_message(f"{result:<9} {saving.output_dir}; to draw with it: {command}")
    if (samples := Path(saving.output_dir) / output_folder.SAMPLES).is_dir():
        console.print_message(f"samples   {samples}")


def describe_dry_run(sheet: str | None) -> None:
    """Print that a dry run found nothing wrong, and what it wrote."""
    written = "only the sheet is written" if sheet else "nothing was written"
    console.print_message(f"dry run   all is in order, and {written}")


def describe_complete(done: int, steps: int, saving: SavingSettings, is_resumed: bool) -> None:
    """Print that a run has nothing left to do; without a checkpoint, more updates would begin anew."""
    has = f"all {steps} updates already" if done == steps else f"{done} updates already, and {steps} are asked for"
    more = f"; --max_train_steps above {done} trains on" if is_resumed else ""
    console.print_message(f"complete  {saving.output_dir} has {has}{more}")


def draw_command(
    output_dir: str, prompt: str, facts: FamilyFacts, python: str = "python", script: str = "infer.py"
) -> str:
    """Return the infer.py command that draws with a result."""
    begin = f" --image {facts.pictures['image']}" if facts.enlarges else ""
    return f"{python} {script} --model_path {shlex.quote(output_dir)}{begin} --prompt {_quoted(prompt)}"


def _quoted(prompt: str) -> str:
    """Put a prompt into double quotes, as a person would type it, unless a shell would read it otherwise."""
    return shlex.quote(prompt) if set(prompt) & set('"$`\\!') else f'"{prompt}"'


def end_early(step: int, last: Path | None, number: int | None) -> NoReturn:
    """End a run that a signal stopped, here or in another process; `last` is its last checkpoint."""
    remedy = "To go on: the same command with --resume_from_checkpoint latest"
    message = f"stopped by a signal after step {step}; {last} is complete. {remedy}"
    raise Stopped(message, code=128 + (number or signal.SIGTERM))


def check_finite(finite: bool, what: str, step: int, rate: float, last: Path | None) -> None:
    """End a run whose numbers are no longer finite; `last` is its last checkpoint."""
    if not finite:
        verb = "are" if what == "weights" else "is"
        kept = f"; {last} is the last checkpoint, though an earlier one may be sounder" if last else ""
        remedy = f"give a lower --learning_rate{kept}"
        raise Stopped(f"the {what} {verb} not finite at step {step}, learning rate {rate:.3g}: {remedy}", code=1)
