"""Class pictures: the base model draws them once before training, and they are kept as files."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from dreambooth.data import captions, picture_files
from dreambooth.drawing import sampling
from dreambooth.files import atomic
from dreambooth.system import console, disk, processes
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dreambooth.config.commands import DrawSettings
    from dreambooth.config.concept_sections import ClassSettings
    from dreambooth.data.concepts import Picture
    from dreambooth.models.family.base import Family
    from dreambooth.models.family.interfaces import Source
    from dreambooth.system.types import Size

_DRAWN = re.compile(r"^(\d+)-([0-9a-f]{40})\.png$")  # number and SHA-1 of the pixels
_END_OF_PNG = b"IEND\xaeB`\x82"
_PROMPT, _WEIGHTS = "prompt", "weights"  # the keys of the prompt and of the model's fingerprint in a picture's text


class Found(NamedTuple):
    """A class, its pictures that are there, and the numbers of those to draw."""

    settings: ClassSettings
    pictures: tuple[Picture, ...]
    missing: list[int]


def scan(classes: Sequence[ClassSettings], source: Source, size: Size, recorded: Sequence[str] = ()) -> list[Found]:
    """Find the pictures of each class that are there, and the numbers of those to draw.

    Only readable pictures count. Raises BadInput where another prompt or model drew some. `recorded` are the hashes of
    the pictures of a resumed run, which takes them again whatever other runs have added.
    """
    folders = [Path(each.folder).resolve() for each in classes]
    shared, hashes = Counter(folders), iter(recorded)
    return [
        _scan(each, shared[folder] > 1, source, size, list(islice(hashes, each.count)))
        for each, folder in zip(classes, folders)
    ]


def _scan(settings: ClassSettings, is_shared: bool, source: Source, size: Size, recorded: Sequence[str]) -> Found:
    """Find the pictures of a class; `is_shared` is whether another class has the same folder."""
    folder = folder_of(settings, source, size)
    pictures, broken = _find(settings, folder) if processes.is_first() else ([], [])
    for each in broken:
        console.warn(f"--class_data_dir: {each}")
    complaint = processes.broadcast(_complaint(pictures, settings, is_shared, source))
    if complaint:
        raise BadInput(complaint)
    numbers = processes.broadcast(_missing_numbers(pictures, settings.count))
    if processes.is_true_anywhere(bool(numbers) and processes.is_first() and not disk.can_be_written(folder)):
        raise BadInput(
            f"--class_data_dir {settings.folder}: it can't be written, and {len(numbers)} pictures are missing"
        )
    return Found(settings, _choose(pictures, settings, folder, recorded), numbers)


def folder_of(settings: ClassSettings, source: Source, size: Size) -> Path:
    """Return the folder below --class_data_dir for the pictures of a size that a model draws of a class.

    On other machines the model may lie elsewhere, so the first process decides.
    """
    height, width = size
    key = f"{settings.prompt}\n{_weights_of(source)}\n{width} x {height}"
    if settings.negative_prompt:
        key += f"\nwithout {settings.negative_prompt}"
    if settings.prompts:
        key += "".join(f"\nof {prompt}" for prompt in settings.prompts)
    words = re.sub(r"\W+", "-", settings.prompt).strip("-")[:40]
    name = f"{words}-{width}x{height}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return Path(settings.folder) / str(processes.broadcast(name))


def _weights_of(source: Source) -> str:
    """Summarize the weights that draw."""
    return source.fingerprint() + (" without T5" if source.without_t5 else "")


def draw_missing(family: Family, settings: DrawSettings, found: Sequence[Found]) -> list[tuple[Picture, ...]]:
    """Draw the pictures that the classes miss; return all pictures of each."""
    return [_draw_missing(family, settings, each) if each.missing else each.pictures for each in found]


def _draw_missing(family: Family, drawing: DrawSettings, found: Found) -> tuple[Picture, ...]:
    """Draw the missing pictures of a class into their folder, each process its share; return all pictures there."""
    settings, numbers, source = found.settings, found.missing, family.source
    folder = folder_of(settings, source, drawing.size)
    if processes.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        atomic.clean(Path(settings.folder))
    processes.wait()
    if processes.is_true_anywhere(not folder.is_dir()):
        raise BadInput(f"--class_data_dir {settings.folder}: all machines must see the same folder")
    mine = [numbers[index] for index in processes.share(len(numbers))]
    pictures = sampling.draw(family, drawing, [(settings.prompt_of(number), number) for number in mine])
    text = {
        "model": source.name,
        _WEIGHTS: _weights_of(source),
        "seed": drawing.seed,
        "steps": drawing.steps,
        "scheduler": drawing.scheduler or "own",
        **({"negative_prompt": drawing.negative_prompt} if drawing.negative_prompt else {}),
    }
    remedy = "those before it are whole: make room, and the same command draws the others"
    with processes.together(), disk.explained(lambda: remedy):
        for number, picture in console.progress_bar(zip(mine, pictures), total=len(mine), desc="Class pictures"):
            _save(picture, folder, number, {_PROMPT: settings.prompt_of(number), **text})
    there = _find(settings, folder)[0] if processes.is_first() else []
    return _choose(there, settings, folder)


def _find(settings: ClassSettings, folder: Path) -> tuple[list[Picture], list[str]]:
    """Find the user's own pictures, and those of earlier versions, in --class_data_dir; and the drawn ones below it.

    Own pictures have their captions, drawn ones the prompts that they were drawn of. Return (pictures, complaints).
    """
    pictures, broken = [], []
    for place in filter(Path.is_dir, (Path(settings.folder), folder)):
        found, complaints, _ = picture_files.scan_folder(place, _check_drawn)
        broken += [f"{each}; it is not counted" for each in complaints]
        own = [picture.path for picture in found if not _DRAWN.match(picture.path.name)]
        said = captions.find(place, own, settings.captions, "--class_data_dir", "--class_captions")
        texts = dict(zip(own, said.texts))
        for picture in found:
            text = texts.get(picture.path)
            if text and "{}" in text:
                raise BadInput(
                    f"--class_data_dir: the caption of {picture.path}: {{}} stands for a subject; name the class"
                )
            if settings.prompts and picture.path not in own:
                text = _text_of(picture.path).get(_PROMPT)
            pictures.append(dataclasses.replace(picture, caption=text) if text else picture)
    return pictures, broken


def _choose(
    pictures: list[Picture], settings: ClassSettings, folder: Path, recorded: Sequence[str] = ()
) -> tuple[Picture, ...]:
    """Return as many of the pictures that the first process found as the run takes, the same ones in every process.

    Another run may add pictures to the folder while the processes of this one read it.
    """
    count = settings.count
    by_hash = {picture.sha256: picture for picture in pictures}
    if len(recorded) == count and by_hash.keys() >= set(recorded):
        pictures = [by_hash[each] for each in recorded]
    names = processes.broadcast([str(picture.path) for picture in pictures[:count]])
    if not processes.is_first():
        by_name = {str(picture.path): picture for picture in _find(settings, folder)[0]}
        pictures = [by_name[name] for name in names if name in by_name]  # fewer, where the folder is not the first's
    processes.wait()  # until all have read them, before one draws more
    return tuple(pictures[:count])


def _missing_numbers(pictures: Sequence[Picture], number: int) -> list[int]:
    """List the numbers of the pictures to draw: the lowest that no drawn file has yet."""
    taken = {int(match[1]) for match in (_DRAWN.match(picture.path.name) for picture in pictures) if match}
    return list(islice((each for each in count() if each not in taken), max(0, number - len(pictures))))


def _text_of(path: Path) -> dict[str, Any]:
    """Read the texts in a picture's file."""
    with picture_files.opened(path) as image:
        return {str(name): value for name, value in image.info.items()}


def _complaint(pictures: Sequence[Picture], settings: ClassSettings, is_shared: bool, source: Source) -> str | None:
    """Describe the pictures that another prompt or model drew, by their text; or those that two classes would have."""
    foreign, own, weights = [], [], _weights_of(source)
    for picture in pictures:
        text = _text_of(picture.path)
        is_drawn = _DRAWN.match(picture.path.name) or _WEIGHTS in text  # whatever somebody called it
        if not is_drawn:
            own.append(picture.path)
        elif not _is_of(text, settings, source.name, weights):
            foreign.append((picture.path, text))
    if own and is_shared:
        return (
            f"--class_data_dir {settings.folder}: {own[0].name} lies there, and more than one class has the folder;"
            " give each class its own"
        )
    if not foreign:
        return None
    path, text = foreign[0]
    return (
        f"--class_data_dir {settings.folder}: {len(foreign)} of its pictures were drawn with another prompt or model"
        f" ({path.name}: {text.get(_PROMPT, '')!r}, {text.get('model', '')}); move them away, or give another folder."
        " A run draws its own into a folder for its prompt and model below that one"
    )


def _is_of(text: Mapping[str, str], settings: ClassSettings, name: str, weights: str) -> bool:
    """Check whether the text of a drawn picture is of this class and model; earlier versions wrote the name alone."""
    if text.get(_PROMPT, settings.prompt) not in (settings.prompts or (settings.prompt,)):
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
