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
    from collections.abc import Mapping, Sequence

    from dreambooth.config.commands import DrawSettings
    from dreambooth.config.sections import ConceptSettings
    from dreambooth.data.concepts import Picture
    from dreambooth.models.families.base import Family
    from dreambooth.models.families.interfaces import Source
    from dreambooth.system.types import Size

_DRAWN = re.compile(r"^(\d+)-([0-9a-f]{40})\.png$")  # number and SHA-1 of the pixels
_END_OF_PNG = b"IEND\xaeB`\x82"
_WEIGHTS = "weights"  # the key of a model's fingerprint in a picture's text


def scan(
    concepts: ConceptSettings, source: Source, size: Size, recorded: Sequence[str] = ()
) -> tuple[tuple[Picture, ...], list[int]]:
    """Find the class pictures that are there, and the numbers of those to draw; none without prior preservation.

    Only readable pictures count. Raises BadInput where another prompt or model drew some. `recorded` are the hashes of
    the pictures of a resumed run, which takes them again whatever other runs have added.
    """
    if not concepts.with_prior_preservation:
        return (), []
    folder = folder_of(concepts, source, size)
    pictures, broken = _find(concepts, folder) if processes.is_first() else ([], [])
    for each in broken:
        console.warn(f"--class_data_dir: {each}; it is not counted")
    complaint = processes.broadcast(_complaint(pictures, concepts, source))
    if complaint:
        raise BadInput(complaint)
    numbers = processes.broadcast(_missing_numbers(pictures, concepts.num_class_images))
    if processes.is_true_anywhere(bool(numbers) and processes.is_first() and not disk.can_be_written(folder)):
        raise BadInput(
            f"--class_data_dir {_top(concepts)}: it can't be written, and {len(numbers)} pictures are missing"
        )
    return _choose(pictures, concepts, folder, recorded), numbers


def folder_of(concepts: ConceptSettings, source: Source, size: Size) -> Path:
    """Return the folder below --class_data_dir for the pictures of a size that a model draws of prompts.

    On other machines the model may lie elsewhere, so the first process decides.
    """
    height, width = size
    key = f"{concepts.class_prompt}\n{source.fingerprint()}\n{width} x {height}"
    if concepts.class_negative_prompt:
        key += f"\nwithout {concepts.class_negative_prompt}"
    words = re.sub(r"\W+", "-", concepts.class_prompt or "").strip("-")[:40]
    name = f"{words}-{width}x{height}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return _top(concepts) / str(processes.broadcast(name))


def draw_missing(
    family: Family, settings: DrawSettings, concepts: ConceptSettings, numbers: Sequence[int]
) -> tuple[Picture, ...]:
    """Draw the class pictures of these numbers into their folder, each process its share; return all pictures there."""
    folder = folder_of(concepts, family.source, settings.size)
    if processes.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        atomic.clean(_top(concepts))
    processes.wait()
    if processes.is_true_anywhere(not folder.is_dir()):
        raise BadInput(f"--class_data_dir {_top(concepts)}: all machines must see the same folder")
    mine = [numbers[index] for index in processes.share(len(numbers))]
    prompt = concepts.class_prompt or ""
    pictures = sampling.draw(family, settings, [(prompt, number) for number in mine])
    text = {
        "prompt": prompt,
        "model": family.source.name,
        _WEIGHTS: family.source.fingerprint(),
        "seed": settings.seed,
        "steps": settings.steps,
        "scheduler": settings.scheduler or "own",
        **({"negative_prompt": settings.negative_prompt} if settings.negative_prompt else {}),
    }
    remedy = "those before it are whole: make room, and the same command draws the others"
    with processes.together(), disk.explained(lambda: remedy):
        for number, picture in console.progress_bar(zip(mine, pictures), total=len(mine), desc="Class pictures"):
            _save(picture, folder, number, text)
    found = _find(concepts, folder)[0] if processes.is_first() else []
    return _choose(found, concepts, folder)


def _find(concepts: ConceptSettings, folder: Path) -> tuple[list[Picture], list[str]]:
    """Find the user's own pictures, and those of earlier versions, in --class_data_dir; and the drawn ones below it.

    Return (pictures, complaints about files that can't be read).
    """
    pictures, broken = [], []
    for place in filter(Path.is_dir, (_top(concepts), folder)):
        found, complaints, _ = picture_files.scan_folder(place, _check_drawn)
        pictures += found
        broken += complaints
    return pictures, broken


def _choose(
    pictures: list[Picture], concepts: ConceptSettings, folder: Path, recorded: Sequence[str] = ()
) -> tuple[Picture, ...]:
    """Return as many of the pictures that the first process found as the run takes, the same ones in every process.

    Another run may add pictures to the folder while the processes of this one read it.
    """
    count = concepts.num_class_images
    by_hash = {picture.sha256: picture for picture in pictures}
    if len(recorded) == count and by_hash.keys() >= set(recorded):
        pictures = [by_hash[each] for each in recorded]
    names = processes.broadcast([str(picture.path) for picture in pictures[:count]])
    if not processes.is_first():
        by_name = {str(picture.path): picture for picture in _find(concepts, folder)[0]}
        pictures = [by_name[name] for name in names if name in by_name]  # fewer, where the folder is not the first's
    processes.wait()  # until all have read them, before one draws more
    return tuple(pictures[:count])


def _top(concepts: ConceptSettings) -> Path:
    assert concepts.class_data_dir is not None  # the settings see to it
    return Path(concepts.class_data_dir)


def _missing_numbers(pictures: Sequence[Picture], number: int) -> list[int]:
    """List the numbers of the pictures to draw: the lowest that no drawn file has yet."""
    taken = {int(match[1]) for match in (_DRAWN.match(picture.path.name) for picture in pictures) if match}
    return list(islice((each for each in count() if each not in taken), max(0, number - len(pictures))))


def _complaint(pictures: Sequence[Picture], concepts: ConceptSettings, source: Source) -> str | None:
    """Describe the pictures that another prompt or model drew, by their text; None if there are none."""
    foreign, weights = [], source.fingerprint()
    for picture in pictures:
        with picture_files.opened(picture.path) as image:
            text = {str(name): value for name, value in image.info.items()}
        is_drawn = _DRAWN.match(picture.path.name) or _WEIGHTS in text  # whatever somebody called it
        if is_drawn and not _is_of(text, concepts.class_prompt, source.name, weights):
            foreign.append((picture.path, text))
    if not foreign:
        return None
    path, text = foreign[0]
    return (
        f"--class_data_dir {_top(concepts)}: {len(foreign)} of its pictures were drawn with another prompt or model"
        f" ({path.name}: {text.get('prompt', '')!r}, {text.get('model', '')}); move them away, or give another folder."
        " A run draws its own into a folder for its prompt and model below that one"
    )


def _is_of(text: Mapping[str, str], prompt: str | None, name: str, weights: str) -> bool:
    """Check whether the text of a drawn picture is of this prompt and model; earlier versions wrote the name alone."""
    if text.get("prompt", prompt) != prompt:
        return False
    if _WEIGHTS in text:
        return text[_WEIGHTS] == weights
    model = text.get("model", name)
    try:
        return model == name or Path(model).resolve() == Path(name).resolve()
    except (OSError, ValueError):  # no path at all
        return False


def _save(picture: Image.Image, folder: Path, number: int, text: Mapping[str, object]) -> None:
    """Write INDEX-SHA1.png; the SHA1 is that of the pixels."""
    path = folder / f"{number}-{_sha1(picture)}.png"
    # another run may draw into the same folder; once a picture is there its bytes stay, since a run records their hash
    atomic.write_picture(path, picture, text, replace=path.is_file() and not _is_whole(path))


def _sha1(picture: Image.Image) -> str:
    return hashlib.sha1(picture.tobytes()).hexdigest()


def _check_drawn(path: Path, picture: Image.Image) -> None:
    """Raise an error where a drawn picture has other pixels than its name says, or is not whole for all that."""
    if drawn := _DRAWN.match(path.name):
        if drawn[2] != _sha1(picture):
            raise ValueError("its pixels are not those that were drawn")
        with Image.open(path) as image:
            image.verify()  # the checksums of its pieces, but for the last one
        if not path.read_bytes().endswith(_END_OF_PNG):
            raise ValueError("its end is damaged")


def _is_whole(path: Path) -> bool:
    """Check whether a drawn picture can be read, and is as it was drawn."""
    try:
        _check_drawn(path, picture_files.open_picture(path))
        return True
    except Exception:  # Pillow raises a dozen kinds
        return False
