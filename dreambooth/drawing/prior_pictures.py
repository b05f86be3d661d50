"""Class pictures: what the base model drew of the class before it learned anything, drawn once and kept as files."""

from __future__ import annotations

import hashlib
import re
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin

from dreambooth.data import picture_files
from dreambooth.drawing import sampling
from dreambooth.files import atomic
from dreambooth.system import console, disk, processes
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.data.concepts import Picture

DRAWN = re.compile(r"^(\d+)-[0-9a-f]{40}\.png$")


def look(config, recorded=()):
    """(the class pictures there are, the numbers of those to draw); nothing where they are not asked for. Only what
    can be read counts, and what another prompt or model drew is pointed out. `recorded` are the hashes of those that a
    resumed run used, which it uses again whatever other runs have added."""
    if not config.concepts.with_prior_preservation:
        return (), []
    folder = Path(config.concepts.class_data_dir)
    first = processes.is_first() and folder.is_dir()
    pictures, broken, _ = picture_files.scan_folder(folder) if first else ([], [], [])
    for complaint in broken:
        console.warn(f"--class_data_dir: {complaint}; it is not counted")
    odd = drawn_otherwise(pictures, config)
    if odd:
        console.warn(
            f"--class_data_dir {folder}: {len(odd)} of its pictures were drawn with another prompt or model"
            f" ({odd[0].path.name} among them); empty the folder to have them drawn anew"
        )
    numbers = processes.broadcast(missing(pictures, config.concepts.num_class_images))
    return choose(pictures, folder, config.concepts.num_class_images, recorded), numbers


def choose(pictures: list[Picture], folder: Path, count: int, recorded: Sequence[str] = ()) -> tuple[Picture, ...]:
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


def missing(pictures, wanted):
    """The numbers of the pictures to draw: the lowest that no drawn file has yet."""
    taken = {int(match[1]) for match in (DRAWN.match(picture.path.name) for picture in pictures) if match}
    return list(islice((number for number in count() if number not in taken), max(0, wanted - len(pictures))))


def drawn_otherwise(pictures, config):
    """The class pictures that say of themselves that another prompt or model drew them."""
    mine = {"prompt": config.concepts.class_prompt, "model": config.model.pretrained_model_name_or_path}
    odd = []
    for picture in pictures:
        if DRAWN.match(picture.path.name):
            with Image.open(picture.path) as image:
                if any(image.info.get(key, value) != value for key, value in mine.items()):
                    odd.append(picture)
    return odd


def draw_missing(family, config, numbers):
    """Draw the class pictures of these numbers into their folder, each process its share; all wait for each other.
    Returns the folder's pictures."""
    folder = Path(config.concepts.class_data_dir)
    if processes.is_first():
        folder.mkdir(parents=True, exist_ok=True)
    processes.wait()
    if processes.is_true_anywhere(not folder.is_dir()):
        raise BadInput(f"--class_data_dir {folder}: all machines must see the same folder")
    mine = [numbers[index] for index in processes.share(len(numbers))]
    wanted = [(config.concepts.class_prompt, number) for number in mine]
    pictures = sampling.draw_for_run(family.pipeline(), wanted, config, "class picture")
    with disk.explained(lambda: "those before it are whole: make room, and the same command draws the others"):
        for number, picture in console.progress_bar(zip(mine, pictures), total=len(mine), desc="Class pictures"):
            save(picture, folder, number, config)
    processes.wait()
    pictures = picture_files.scan_folder(folder)[0] if processes.is_first() else []
    return choose(pictures, folder, config.concepts.num_class_images)


def save(picture, folder, number, config):
    """Write INDEX-SHA1.png; the SHA1 is that of the pixels."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("prompt", config.concepts.class_prompt)
    info.add_itxt("model", config.model.pretrained_model_name_or_path)
    digest = hashlib.sha1(picture.tobytes()).hexdigest()
    # another run may draw into the same folder; once a picture is there its bytes stay, since a run records their hash
    atomic.write_picture(folder / f"{number}-{digest}.png", picture, replace=False, pnginfo=info)
