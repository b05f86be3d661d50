"""Small copies of pictures that stand inside a page."""

from __future__ import annotations

import base64
import functools
import io
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from dreambooth.data import picture_files

if TYPE_CHECKING:
    from pathlib import Path

_SMALL = 128 * 128  # pixels of a picture that is kept as it is
_QUALITY = 84  # of JPEG
_KEPT = 600  # copies that are in memory for the next page of the same run


class Thumbnail(NamedTuple):
    """A picture as an address, and its size in pixels."""

    address: str
    width: int
    height: int

    @property
    def is_small(self) -> bool:
        """Whether it is shown larger than it is, with its pixels as squares."""
        return self.width * self.height <= _SMALL


def of(picture: Image.Image, side: int) -> Thumbnail:
    """Copy a picture, with its longer side at most `side`."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind, settings = ("png", {"optimize": True}) if small.width * small.height <= _SMALL else (
        "jpeg", {"quality": _QUALITY})  # fmt: skip
    data = io.BytesIO()
    small.save(data, kind, **settings)
    return Thumbnail(f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}", *small.size)


def of_file(path: Path, side: int) -> Thumbnail | None:
    """Copy the picture of a file; None where it is none that can be read."""
    try:
        return _of_file(path, path.stat().st_mtime_ns, side)
    except Exception:  # Pillow raises a dozen kinds; the page goes without this picture
        return None


@functools.lru_cache(maxsize=_KEPT)
def _of_file(path: Path, written_ns: int, side: int) -> Thumbnail:
    return of(picture_files.open_picture(path), side)
