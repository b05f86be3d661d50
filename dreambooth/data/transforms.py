"""From a picture to the pixels that a network sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dreambooth.data.concepts import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.config.sections import PictureSettings
    from dreambooth.data.concepts import Picture
    from dreambooth.system.types import Array, Box, Size

_SQUEEZE_NOTICED = 1.1


def squeezed(pictures: Sequence[Picture], size: Size) -> list[Picture]:
    """List the pictures whose shape changes by more than a tenth when they are scaled to a size."""
    return [picture for picture in pictures if squeeze(View(picture.size, size)) > _SQUEEZE_NOTICED]


def squeeze(view: View) -> float:
    """Return by how much a view changes a picture's shape: 1 where it keeps it."""
    left, top, right, bottom = view.crop or (0, 0, view.original[1], view.original[0])
    height, width = _inner_size(view)
    ratio = ((right - left) / (bottom - top)) / (width / height)
    return max(ratio, 1 / ratio)


def share_cut_off(view: View) -> float:
    """Return the share of a picture's area that a view leaves out."""
    if view.crop is None:
        return 0.0
    left, top, right, bottom = view.crop
    return 1 - (right - left) * (bottom - top) / (view.original[0] * view.original[1])


def views(original: Size, settings: PictureSettings) -> tuple[View, ...]:
    """List the views of a picture that training uses: the plain one and, with random flips, its mirror image."""
    crop = _centred_box(original, settings.size) if settings.mode == "crop" else None
    inside = _inner_box(original, settings.size) if settings.mode == "pad" else None
    flips = (False, True) if settings.random_flip else (False,)
    return tuple(View(original, settings.size, crop, flip, inside) for flip in flips)


def to_pixels(image: Image.Image, view: View) -> Array:
    """Turn a view of a picture into float32 pixels [3, height, width] in [-1, 1]; what lies about it is 0, grey."""
    pixels = (_scaled(image, view) / 127.5 - 1).transpose(2, 0, 1)
    return _placed(pixels, view)


def to_weights(mask: Image.Image | None, view: View, unmasked: float) -> Array:
    """Turn a view of a mask, in grey, into the float32 weights [1, height, width] of the places.

    White has the weight 1, black that of `unmasked`, and what lies about the picture 0. Without a mask, the picture
    itself counts.
    """
    if mask is None:
        inner = _inner_size(view)
        weights = np.ones((1, *inner), dtype=np.float32)
    else:
        weights = unmasked + (1 - unmasked) * _scaled(mask, view)[None] / 255
    return _placed(weights, view)


def _inner_size(view: View) -> Size:
    """Return the size of the picture within a view."""
    left, top, right, bottom = view.inside or (0, 0, view.size[1], view.size[0])
    return int(bottom - top), int(right - left)


def _scaled(image: Image.Image, view: View) -> Array:
    height, width = _inner_size(view)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR, box=view.crop)
    return np.asarray(scaled, dtype=np.float32)


def _placed(values: Array, view: View) -> Array:
    """Put the values [n, …] of a picture into its view, with zeros about them, and mirror it if so."""
    if view.inside:
        left, top, right, bottom = map(int, view.inside)
        whole = np.zeros((len(values), *view.size), dtype=values.dtype)
        whole[:, top:bottom, left:right] = values
        values = whole
    return np.ascontiguousarray(values[:, :, ::-1]) if view.flip else values


def _inner_box(original: Size, size: Size) -> Box | None:
    """Find where a whole picture lies in the middle of a size, with its shape kept; None where it fills it."""
    scale = min(size[0] / original[0], size[1] / original[1])
    height, width = (max(1, round(side * scale)) for side in original)
    if (height, width) == size:
        return None
    left, top = (size[1] - width) // 2, (size[0] - height) // 2
    return left, top, left + width, top + height


def _centred_box(original: Size, size: Size) -> Box | None:
    """Find the largest box about a picture's centre that has the shape of a size; None is the whole picture."""
    height, width = original
    ratio = size[1] / size[0]
    if width / height == ratio:
        return None
    inside = (width, width / ratio) if width / height < ratio else (ratio * height, height)
    left, top = (width - inside[0]) * 0.5, (height - inside[1]) * 0.5
    return left, top, left + inside[0], top + inside[1]
