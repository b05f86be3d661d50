"""Picture files: find them, and read them right."""

import hashlib
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dreambooth.data.concepts import Picture
from dreambooth.system.errors import BadInput

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")


def open_picture(path):
    """The first frame of a picture as RGB, turned as its EXIF data says, transparency on white, 16 bits scaled to 8."""
    with Image.open(path, formats=FORMATS) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips it to white
            grey = np.asarray(image).astype(np.float32) / 257
            return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8)).convert("RGB")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
        return image.convert("RGB")


def inspect_picture(path):
    """A Picture where the file is one that can be read; None where it is something else; ValueError where it claims
    to be a picture, by its name or its first bytes, and can't be read."""
    claims = path.suffix.lower() in EXTENSIONS
    try:
        path.name.encode()  # a name that is no Unicode could not be recorded
        with Image.open(path, formats=FORMATS):
            claims = True
        size = open_picture(path).size
    except Exception as error:  # Pillow raises a dozen kinds, SyntaxError and struct.error among them
        if claims:
            raise ValueError(f"{path} claims to be a picture and can't be read ({error})") from None
        return None
    return Picture(path, size, hashlib.sha256(path.read_bytes()).hexdigest())


def _natural_order(path):
    """Sort key under which 2.png stands before 10.png, the same on every machine."""
    pieces = re.split(r"(\d+)", path.name)
    return [(int(piece), "") if piece.isdigit() and piece.isascii() else (-1, piece) for piece in pieces], path.name


def scan_folder(folder):
    """(pictures, complaints, other files) of a folder, sorted. Hidden files and folders do not count at all."""
    pictures, broken, others = [], [], []
    for path in sorted((each for each in Path(folder).iterdir() if not each.name.startswith(".")), key=_natural_order):
        if path.is_dir():
            continue
        try:
            picture = inspect_picture(path)
        except ValueError as error:
            broken.append(str(error))
            continue
        if picture:
            pictures.append(picture)
        else:
            others.append(path)
    return pictures, broken, others


def find_pictures(folder, flag):
    """The subject's pictures. Any that is broken ends the run: with three to five, each one counts."""
    if not Path(folder).is_dir():
        raise BadInput(f"{flag} {folder}: there is no such folder")
    pictures, broken, others = scan_folder(folder)
    if broken:
        raise BadInput(f"{flag}: {broken[0]}; replace it or take it away")
    if not pictures:
        found = f"none of its {len(others)} files is a picture" if others else "it is empty"
        raise BadInput(f"{flag} {folder}: {found}; put three to five png, jpg, bmp or webp pictures there")
    return pictures, others
