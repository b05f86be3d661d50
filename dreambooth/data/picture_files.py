"""Picture files: find them in a folder, and read them as a person sees them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dreambooth.data.concepts import Picture
from dreambooth.system import machine
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dreambooth.config.sections import PictureSettings
    from dreambooth.system.types import Size

    Check = Callable[[Path, Image.Image], None]

_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_PHONE = (".heic", ".heif")
_PHONE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # behind ftyp, in such a file
_MANY_PIXELS = 25_000_000  # from which a JPEG is decoded at a smaller size
_MOST_PIXELS = 100_000_000  # 300 MB once they are decoded
_TURNED = (5, 6, 7, 8)  # EXIF orientations with width and height exchanged
_SAME_SHAPE = 1.02  # of a mask and its picture
_MANY_FILES = 64  # from which threads share them
_BOUND = threading.Lock()  # of Pillow's bound of pixels, which all threads share


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """Open a picture without decoding it, however large it is: Pillow's own bound is below that of `open_picture`."""
    with _BOUND:
        bound = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            file = Image.open(path, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = bound
    with file:
        yield file


def open_picture(path: str | Path) -> Image.Image:
    """Read the first frame of a picture as RGB.

    EXIF orientation is applied, transparency lies on white, and 16 bits are scaled to 8. A huge JPEG is decoded at a
    smaller size. Raises ValueError for another huge picture, whose few bytes may stand for gigabytes.
    """
    image = _upright(path)
    if image.mode.startswith("I"):
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _readable_size(path: Path) -> tuple[int, int]:
    """Return the width and height that `open_picture` gives; raise an error where it can't read the picture.

    A JPEG is decoded at an eighth of its size: all its bytes are read, in a third of the time.
    """
    with opened(path) as file:
        if file.format != "JPEG" or file.width * file.height > _MANY_PIXELS:
            return open_picture(path).size
        width, height = file.size
        is_turned = file.getexif().get(ExifTags.Base.Orientation) in _TURNED
        file.draft("RGB", (max(1, width // 8), max(1, height // 8)))
        file.load()
    return (height, width) if is_turned else (width, height)


def open_mask(picture: Picture) -> Image.Image | None:
    """Read the mask of a picture in grey: a file, or the picture's own transparency; None if it has none."""
    if picture.mask is None:
        return None
    if picture.mask == picture.path:
        return _upright(picture.mask).convert("RGBA").getchannel("A")
    return open_grey(picture.mask)


def open_grey(path: str | Path) -> Image.Image:
    """Read the first frame of a picture in grey, with its EXIF orientation applied."""
    return _grey(_upright(path))


def _grey(image: Image.Image) -> Image.Image:
    return (_eight_bits(image) if image.mode.startswith("I") else image).convert("L")


def open_region(path: str | Path) -> Image.Image:
    """Read a picture in grey, with what is clear in it as black."""
    image = _upright(path)
    if not image.has_transparency_data:
        return _grey(image)
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("L")


def _upright(path: str | Path) -> Image.Image:
    """Decode the first frame of a picture, with its EXIF orientation applied."""
    with opened(path) as file:
        if file.width * file.height > _MANY_PIXELS:
            # to between 6 and 25 megapixels: the decoder has halves, quarters and eighths alone
            scale = (_MANY_PIXELS / (file.width * file.height)) ** 0.5 / 2
            file.draft("RGB", (int(file.width * scale), int(file.height * scale)))
        if file.width * file.height > _MOST_PIXELS:
            megapixels = file.width * file.height / 1e6
            raise ValueError(f"it has {megapixels:.0f} megapixels, and at most {_MOST_PIXELS / 1e6:.0f} are read")
        return ImageOps.exif_transpose(file)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; Pillow's own conversion clips it to white."""
    grey = np.asarray(image).astype(np.float32) / 257
    return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))


def with_masks(pictures: Sequence[Picture], settings: PictureSettings) -> list[Picture]:
    """Return pictures with their masks: of --mask_dir, or their own transparency, which not all need have.

    Raises BadInput for a mask that is missing, broken, of another shape than its picture, or without a place that
    counts.
    """
    if not settings.has_masks:
        return list(pictures)
    found = []
    for picture in pictures:
        mask = _mask_of(picture, settings)
        masked = dataclasses.replace(picture, mask=mask)
        if mask is not None:
            _check_mask(masked, settings)
        found.append(masked)
    return found


def _mask_of(picture: Picture, settings: PictureSettings) -> Path | None:
    """Find the mask of a picture."""
    if settings.mask_dir is None:
        with opened(picture.path) as file:
            return picture.path if file.has_transparency_data else None
    names = [picture.path.stem + extension for extension in _EXTENSIONS]
    paths = [path for name in names if (path := Path(settings.mask_dir) / name).is_file()]
    if not paths:
        raise BadInput(f"--mask_dir {settings.mask_dir}: {picture.path.name} has no mask there, as {names[0]}")
    return paths[0]


def _check_mask(picture: Picture, settings: PictureSettings) -> None:
    flag = "--use_alpha" if settings.use_alpha else "--mask_dir"
    try:
        mask = open_mask(picture)
    except Exception as error:  # Pillow raises a dozen kinds
        raise BadInput(f"{flag} {picture.mask}: it can't be read as a mask ({error})") from None
    assert mask is not None
    check_shape(mask, picture.size, f"{flag} {picture.mask}")
    if not mask.getextrema()[1]:
        raise BadInput(f"{flag} {picture.mask}: it is black, so no place of its picture counts")


def check_shape(mask: Image.Image, size: Size, what: str) -> None:
    """Refuse a mask of another shape than its picture's."""
    height, width = size
    if not is_same_shape((mask.height, mask.width), size):
        raise BadInput(
            f"{what}: it has {mask.width} x {mask.height} pixels, another shape than its picture, which has"
            f" {width} x {height}"
        )


def is_same_shape(one: Size, other: Size) -> bool:
    """Check whether two sizes have about the same proportions."""
    return 1 / _SAME_SHAPE < (one[1] / one[0]) * (other[0] / other[1]) < _SAME_SHAPE


def _inspect_picture(path: Path, check: Check | None) -> Picture | None:
    """Return a Picture if the file is readable as one, None if it is something else.

    Raises ValueError if its name or its first bytes claim a picture and it cannot be read, or fails the check.
    """
    claims = path.suffix.lower() in _EXTENSIONS
    try:
        path.name.encode()  # JSON cannot hold a name that is no Unicode
        with opened(path):
            claims = True
        if check is not None:
            check(path, open_picture(path))
        width, height = _readable_size(path)
    except Exception as error:  # Pillow raises a dozen kinds, SyntaxError and struct.error among them
        if claims and _is_of_phone(path):
            raise ValueError(f"{path} is in a phone's format, HEIC, whatever its name; convert it to JPEG") from None
        if claims:
            raise ValueError(f"{path} claims to be a picture and can't be read ({error})") from None
        return None
    return Picture(path, (height, width), hashlib.sha256(path.read_bytes()).hexdigest())


def _is_of_phone(path: Path) -> bool:
    """Check whether the first bytes of a file are those of HEIC."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[4:8] == b"ftyp" and head[8:] in _PHONE_BRANDS


def _natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that puts 2.png before 10.png, the same on every machine."""
    pieces = re.split(r"(\d+)", path.name)
    return [(int(piece), "") if piece.isdigit() and piece.isascii() else (-1, piece) for piece in pieces], path.name


def scan_folder(folder: str | Path, check: Check | None = None) -> tuple[list[Picture], list[str], list[Path]]:
    """Return (pictures, problems, other files) of a folder, in order. Hidden files and folders are left out.

    `check` raises ValueError for a picture that is readable and yet damaged.
    """
    visible = (each for each in Path(folder).iterdir() if not each.name.startswith("."))
    paths = [path for path in sorted(visible, key=_natural_order) if not path.is_dir()]
    pictures, problems, others = [], [], []
    for path, found in zip(paths, _inspected(paths, check)):
        if isinstance(found, Picture):
            pictures.append(found)
        elif found:
            problems.append(found)
        else:
            others.append(path)
    return pictures, problems, others


def _inspected(paths: Sequence[Path], check: Check | None) -> Iterator[Picture | str | None]:
    """Yield the picture of each file, or what is wrong with it; None for what is no picture. Threads share many."""

    def inspect(path: Path) -> Picture | str | None:
        try:
            return _inspect_picture(path, check)
        except ValueError as error:
            return str(error)

    cores = machine.cores()
    if len(paths) < _MANY_FILES or cores == 1:
        yield from map(inspect, paths)
        return
    with ThreadPoolExecutor(cores) as threads:
        for first in range(0, len(paths), _MANY_FILES):
            yield from threads.map(inspect, paths[first : first + _MANY_FILES])


def find_pictures(folder: str | Path, flag: str) -> tuple[list[Picture], list[Path]]:
    """Return (pictures, other files) of the subject's folder.

    Raises BadInput if there is no picture, or a broken one: with three to five, each one counts.
    """
    if Path(folder).is_file():
        raise BadInput(f"{flag} {folder}: it is a file; give the folder that it is in, {Path(folder).parent}")
    if not Path(folder).is_dir():
        raise BadInput(f"{flag} {folder}: there is no such folder")
    pictures, problems, others = scan_folder(folder)
    if problems:
        raise BadInput(f"{flag} {folder}: {problems[0]}; replace or remove it")
    if not pictures:
        raise BadInput(f"{flag} {folder}: {_reason(Path(folder), others)}")
    return pictures, others


def phone_pictures(files: Sequence[Path]) -> list[Path]:
    """List the files in the format of a phone, which Pillow does not read."""
    return [path for path in files if path.suffix.lower() in _PHONE]


def _reason(folder: Path, others: Sequence[Path]) -> str:
    """Return why a folder has no picture, and the remedy."""
    if phone := phone_pictures(others):
        return f"{phone[0].name} is in a phone's format, HEIC; convert the pictures to JPEG"
    for below in sorted(each for pattern in ("*", "*/*") for each in folder.glob(pattern) if each.is_dir()):
        is_hidden = any(part.startswith(".") for part in below.relative_to(folder).parts)
        if not is_hidden and scan_folder(below)[0]:
            return f"its pictures are in a folder below it; give {below}"
    found = f"none of its {len(others)} files is a picture" if others else "it is empty"
    return f"{found}; put three to five png, jpg, bmp or webp pictures there"
