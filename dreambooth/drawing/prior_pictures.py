"""Class pictures: the base model draws them once before training, and they are kept as files."""

from __future__ import annotations

import hashlib
import re
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from dreambooth.data import picture_files
from dreambooth.drawing import sampling
from dreambooth.files import atomic
from dreambooth.system import console, disk, processes
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.config.commands import DrawSettings
    from dreambooth.config.sections import ConceptSettings
    from dreambooth.data.concepts import Picture
    from dreambooth.models.families.base import Family

_DRAWN = re.compile(r"^(\d+)-[0-9a-f]{40}\.png$")


def scan(concepts: ConceptSettings, model: str, recorded: Sequence[str] = ()) -> tuple[tuple[Picture, ...], list[int]]:
    """Find the class pictures that are there, and the numbers of those to draw; none without prior preservation.

    Only readable pictures count. Those that another prompt or model drew are reported. `recorded` are the hashes of the
    pictures of a resumed run, which takes them again whatever other runs have added.
    """
    if not concepts.with_prior_preservation:
        return (), []
    folder = _folder(concepts)
    first = processes.is_first() and folder.is_dir()
    pictures, broken, _ = picture_files.scan_folder(folder) if first else ([], [], [])
    for complaint in broken:
        console.warn(f"--class_data_dir: {complaint}; it is not counted")
    foreign = _foreign_pictures(pictures, concepts.class_prompt, model)
    if foreign:
        console.warn(
            f"--class_data_dir {folder}: {len(foreign)} of its pictures were drawn with another prompt or model"
            f" ({foreign[0].path.name} among them); empty the folder to have them drawn anew"
        )
    numbers = processes.broadcast(_missing_numbers(pictures, concepts.num_class_images))
    return _choose(pictures, folder, concepts.num_class_images, recorded), numbers


def draw_missing(
    family: Family, settings: DrawSettings, concepts: ConceptSettings, numbers: Sequence[int]
) -> tuple[Picture, ...]:
    """Draw the class pictures of these numbers into their folder, each process its share; return all pictures there."""
    folder = _folder(concepts)
    if processes.is_first():
        folder.mkdir(parents=True, exist_ok=True)
    processes.wait()
    if processes.is_true_anywhere(not folder.is_dir()):
        raise BadInput(f"--class_data_dir {folder}: all machines must see the same folder")
    mine = [numbers[index] for index in processes.share(len(numbers))]
    prompt = concepts.class_prompt or ""
    pictures = sampling.draw(family, settings, [(prompt, number) for number in mine])
    remedy = "those before it are whole: make room, and the same command draws the others"
    with processes.together(), disk.explained(lambda: remedy):
        for number, picture in console.progress_bar(zip(mine, pictures), total=len(mine), desc="Class pictures"):
            _save(picture, folder, number, {"prompt": prompt, "model": family.source.name})
    found = picture_files.scan_folder(folder)[0] if processes.is_first() else []
    return _choose(found, folder, concepts.num_class_images)


def _choose(pictures: list[Picture], folder: Path, count: int, recorded: Sequence[str] = ()) -> tuple[Picture, ...]:
    """Return `count` of the pictures that the first process found, the same ones in every process.

    Another run may add pictures to the folder while the processes of this one read it.
    """
    by_hash = {picture.sha256: picture for picture in pictures}
    if len(recorded) == count and by_hash.keys() >= set(recorded):
        pictures = [by_hash[each] for each in recorded]
    names = processes.broadcast([picture.path.name for picture in pictures[:count]])
    if not processes.is_first():
        found = picture_files.scan_folder(folder)[0] if folder.is_dir() else []
        by_name = {picture.path.name: picture for picture in found}
        pictures = [by_name[name] for name in names if name in by_name]  # fewer, where the folder is not the first's
    processes.wait()  # until all have read them, before one draws more
    return tuple(pictures[:count])


def _folder(concepts: ConceptSettings) -> Path:
    assert concepts.class_data_dir is not None  # the settings see to it
    return Path(concepts.class_data_dir)


def _missing_numbers(pictures: Sequence[Picture], number: int) -> list[int]:
    """List the numbers of the pictures to draw: the lowest that no drawn file has yet."""
    taken = {int(match[1]) for match in (_DRAWN.match(picture.path.name) for picture in pictures) if match}
    return list(islice((each for each in count() if each not in taken), max(0, number - len(pictures))))


def _foreign_pictures(pictures: Sequence[Picture], prompt: str | None, model: str) -> list[Picture]:
    """List the pictures whose text names another prompt or model."""
    mine = {"prompt": prompt, "model": model}
    foreign = []
    for picture in pictures:
        if _DRAWN.match(picture.path.name):
            with Image.open(picture.path) as image:
                if any(image.info.get(key, value) != value for key, value in mine.items()):
                    foreign.append(picture)
    return foreign


def _save(picture: Image.Image, folder: Path, number: int, text: dict[str, str]) -> None:
    """Write INDEX-SHA1.png; the SHA1 is that of the pixels."""
    digest = hashlib.sha1(picture.tobytes()).hexdigest()
    # another run may draw into the same folder; once a picture is there its bytes stay, since a run records their hash
    atomic.write_picture(folder / f"{number}-{digest}.png", picture, text, replace=False)
