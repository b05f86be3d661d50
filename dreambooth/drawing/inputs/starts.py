"""What a drawing begins from beside noise: a picture, and a region of it to paint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from dreambooth.data import picture_files
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Size

STEP = 8  # of all sizes, in pixels
_WHITE = 128  # and above
_MOST_AREA = 1.5  # times the usual one


@dataclass(frozen=True)
class Start:
    """A picture to begin from."""

    picture: Image.Image
    mask: Image.Image | None = None  # white where it is painted anew; None: everywhere
    strength: float = 1.0  # the share of the steps that are drawn: 1 keeps nothing of what is painted anew

    def fitted(self, size: Size) -> Start:
        """Return it at a size; what is of another shape is cut off."""
        # a kernel with negative lobes would leave traces in what is black
        mask = self.mask and ImageOps.fit(self.mask, (size[1], size[0]), Image.Resampling.BOX)
        if mask and not _has_white(mask):
            raise BadInput(
                f"--mask: at {size[1]} x {size[0]} pixels no place of it is white; paint more, or draw larger"
            )
        return Start(fitted(self.picture, size), mask, self.strength)

    def kept(self, drawn: Image.Image) -> Image.Image:
        """Put back what was not to be painted, to the last bit; at a soft edge, both are mixed."""
        return Image.composite(drawn, self.picture, self.mask) if self.mask else drawn


def read(path: str, flag: str) -> Image.Image:
    """Read a picture as a person sees it."""
    return _read(path, flag, "picture", picture_files.open_picture)


def read_mask(path: str, picture: Image.Image, flag: str) -> Image.Image:
    """Read the mask of a picture in grey: of its shape, and with something to paint."""
    mask = _read(path, flag, "mask", picture_files.open_region)
    picture_files.check_shape(mask, (picture.height, picture.width), f"{flag} {path}")
    if not _has_white(mask):
        raise BadInput(f"{flag} {path}: it has no white place, so nothing would be painted")
    return mask


def read_start(image: str | None, mask: str | None, strength: float) -> Start | None:
    """Read the picture to begin from, and the mask of what to paint in it; None without a picture."""
    if image is None:
        return None
    picture = read(image, "--image")
    return Start(picture, None if mask is None else read_mask(mask, picture, "--mask"), strength)


def check_alike(pictures: Sequence[Image.Image], paths: Sequence[str], flag: str = "--control_image") -> None:
    """Refuse pictures of several shapes, which are to be drawn at one size."""
    for picture, path in zip(pictures[1:], paths[1:]):
        if not picture_files.is_same_shape((picture.height, picture.width), (pictures[0].height, pictures[0].width)):
            shapes = f"{paths[0]} and {path} have different shapes"
            raise BadInput(f"{flag}: {shapes}; give --height and --width, to which both are cut")


def _has_white(mask: Image.Image) -> bool:
    return mask.point(lambda level: 255 * (level >= _WHITE)).getbbox() is not None


def _read(path: str, flag: str, what: str, reader: Callable[[str], Image.Image]) -> Image.Image:
    if not Path(path).is_file():
        reason = "it is a folder; give one file" if Path(path).is_dir() else "there is no such file"
        raise BadInput(f"{flag} {path}: {reason}")
    try:
        return reader(path)
    except Exception as error:  # Pillow raises a dozen kinds
        raise BadInput(f"{flag} {path}: it can't be read as a {what} ({error})") from None


def fitting_size(
    picture: Image.Image, usual: Size, step: int, height: int | None = None, width: int | None = None
) -> Size:
    """Return a size of a picture's shape, with sides in steps and about the area of a model's usual size.

    Where one side is given, the other follows from it; where both are, they are the size.
    """
    usual_scale = (usual[0] * usual[1] / (picture.height * picture.width)) ** 0.5
    scale = scale_for((picture.height, picture.width), usual_scale, height, width)
    fitting = [max(step, round(side * scale / step) * step) for side in (picture.height, picture.width)]
    if height is None and width is None and fitting[0] * fitting[1] > _MOST_AREA * usual[0] * usual[1]:
        long = fitting.index(max(fitting))  # its other side is a step already, and the ends are cut off
        fitting[long] = max(step, usual[0] * usual[1] // fitting[1 - long] // step * step)
    return height or fitting[0], width or fitting[1]


def scale_for(size: Size, usual: float, height: int | None, width: int | None) -> float:
    """Return the scale that brings a picture of a size to a side that is given, else the usual one."""
    if height is not None:
        return height / size[0]
    return usual if width is None else width / size[1]


def step_of(family: Family) -> int:
    """Return the number of pixels of which the sides of a drawing are multiples."""
    return math.lcm(STEP, family.size_step)


def fitted(picture: Image.Image, size: Size) -> Image.Image:
    """Scale a picture to a size, and cut off what is of another shape, at both ends alike."""
    return ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.LANCZOS)
