"""The pictures: find them, read them right, bring them to size, and decide which go into which micro-batch."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image, ImageOps

from dreambooth import noise
from dreambooth.config import BadInput

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
SQUEEZE_NOTICED = 1.1


@dataclass(frozen=True)
class Picture:
    path: Path
    size: tuple  # (width, height) as seen, after EXIF rotation
    sha256: str


@dataclass(frozen=True)
class Concept:
    """One thing to learn, and the class of things that it belongs to."""

    prompt: str
    pictures: tuple
    class_prompt: Optional[str] = None
    class_pictures: tuple = ()


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


def look_at(path):
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


def natural(path):
    """Sort key under which 2.png stands before 10.png, the same on every machine."""
    pieces = re.split(r"(\d+)", path.name)
    return [(int(piece), "") if piece.isdigit() and piece.isascii() else (-1, piece) for piece in pieces], path.name


def survey(folder):
    """(pictures, complaints, other files) of a folder, sorted. Hidden files and folders do not count at all."""
    pictures, broken, others = [], [], []
    for path in sorted((each for each in Path(folder).iterdir() if not each.name.startswith(".")), key=natural):
        if path.is_dir():
            continue
        try:
            picture = look_at(path)
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
    pictures, broken, others = survey(folder)
    if broken:
        raise BadInput(f"{flag}: {broken[0]}; replace it or take it away")
    if not pictures:
        found = f"none of its {len(others)} files is a picture" if others else "it is empty"
        raise BadInput(f"{flag} {folder}: {found}; put three to five png, jpg, bmp or webp pictures there")
    return pictures, others


def squeezed(pictures, height, width):
    """The pictures whose shape changes by more than a tenth when they are scaled to height x width."""
    changed = []
    for picture in pictures:
        ratio = (picture.size[0] / picture.size[1]) / (width / height)
        if max(ratio, 1 / ratio) > SQUEEZE_NOTICED:
            changed.append(picture)
    return changed


def to_pixels(image, height, width, center_crop):
    """A picture as the network sees it: float32 [3, height, width] in [-1, 1]."""
    if center_crop:
        image = ImageOps.fit(image, (width, height), Image.BILINEAR)
    else:
        image = image.resize((width, height), Image.BILINEAR)
    return (np.asarray(image, dtype=np.float32) / 127.5 - 1).transpose(2, 0, 1)


@dataclass(frozen=True)
class MicroBatch:
    """What goes through the network at once: the subject's examples, then as many of the class."""

    places: list  # (step, slot, kind) of each example: the key of its random numbers
    pictures: list  # its index among Examples.pictures
    flips: list  # whether it is mirrored
    prompts: list  # its index among Examples.prompts


class Examples:
    """All pictures of all concepts, and the endless sequence of examples that is drawn from them."""

    def __init__(self, concepts, config, rank, processes):
        self.config, self.rank, self.processes = config, rank, processes
        self.pictures, self.prompts, self.prompt_of = [], [], []
        self.instance, self.prior = [], []
        for concept in concepts:
            self.instance += self.add(concept.pictures, concept.prompt)
            if config.with_prior_preservation:
                self.prior += self.add(concept.class_pictures, concept.class_prompt)

    def add(self, pictures, prompt):
        if prompt not in self.prompts:
            self.prompts.append(prompt)
        first = len(self.pictures)
        self.pictures += pictures
        self.prompt_of += [self.prompts.index(prompt)] * len(pictures)
        return range(first, len(self.pictures))

    def micro_batch(self, step, micro):
        """The examples of micro-batch `micro` of update `step` that this process computes.

        Slots number the examples of one update over all micro-batches and processes, so the same update results
        however it is split.
        """
        config = self.config
        first = (micro * self.processes + self.rank) * config.train_batch_size
        places, pictures = [], []
        for kind, group in enumerate((self.instance, self.prior)):
            for slot in range(first, first + config.train_batch_size) if group else ():
                index = step * config.global_batch(self.processes) + slot
                places.append((step, slot, kind))
                pictures.append(group[noise.pick(config.seed, f"order of kind {kind}", len(group), index)])
        flips = noise.integers(config.seed, "flip", places, 2) if config.random_flip else [0] * len(places)
        return MicroBatch(places, pictures, [int(flip) for flip in flips], [self.prompt_of[i] for i in pictures])
