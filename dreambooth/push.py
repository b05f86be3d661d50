"""Share the result of a run: put it on the Hugging Face hub, or into a folder that can be given away.

    python -m dreambooth.push --model_path ./dream_outputs --to hub --name USER/sks-dog
    python -m dreambooth.push --model_path ./dream_outputs --to folder --output ./to_share

Others get the model, its card, its record and its last drawings. They get no checkpoint, no log and no training
picture, and no path and no token of this machine. The token is read from HF_TOKEN, or from huggingface-cli login.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.config import parser
from dreambooth.config.commands import PushSettings
from dreambooth.files import atomic
from dreambooth.run.sharing import bundle, upload
from dreambooth.system import console, disk
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

_MESSAGE = "DreamBooth for PaddlePaddle: the result of a run"


def read_settings(argv: Sequence[str]) -> PushSettings:
    """Read the command line, and check everything that needs no reading of files."""
    settings = parser.read_settings(PushSettings, argv, prog="python -m dreambooth.push", description=__doc__)
    if settings.name is not None and not settings.dry_run:
        upload.check(settings.name)
    if settings.output is not None:
        path = Path(settings.output)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise BadInput(f"--output {path}: something is there already; give a new or empty folder")
        if path.resolve().is_relative_to(Path(settings.model_path).resolve()):
            raise BadInput(f"--output {path}: it lies in the folder that is shared; give another")
        disk.check_writable(path, "--output")
    return settings


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    settings = read_settings(argv)
    entries = bundle.collect(Path(settings.model_path), settings.license, settings.with_training_pictures)
    for entry in entries:
        console.print_message(f"{_amount(entry.size):>9}  {entry.name}")
    total = sum(entry.size for entry in entries)
    if settings.dry_run:
        console.print_message(f"dry run   {len(entries)} files, {console.amount(total)}; nothing was sent or written")
    elif settings.output is not None:
        with atomic.whole_folder(Path(settings.output), total) as temporary:
            for entry in entries:
                entry.write(temporary)
        console.print_message(settings.output)
    else:
        assert settings.name is not None  # which is checked
        console.print_message(upload.send(entries, settings.name, settings.public, _MESSAGE))


def _amount(size: int) -> str:
    """Return the size of a file, which may be small."""
    return console.amount(size) if size >= 1_000_000 else f"{max(1, round(size / 1000))} kB"


if __name__ == "__main__":
    console.run_command(main)
