"""From a picture to the pixels that a network sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance

from dreambooth.data.concepts import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.config.sections import PictureSettings
    from dreambooth.data.concepts import Picture
    from dreambooth.system.types import Array, Box, Size

_SQUEEZE_NOTICED = 1.1
_LONGEST, _LEAST_AREA = 2, 0.7  # the longest ratio of a bucket's sides, and its least share of the area
_PLACES = 5  # that a random crop chooses among
_WHOLE_REGIONS, _LEAST_REGION = 0.1, 0.25  # the share of whole ones, and of a side that one has at least
_COLOURS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def buckets(size: Size, step: int) -> tuple[Size, ...]:
    """List sizes in steps of `step` that have about the area of a size, and at most that; the size itself is first.

    To each shorter side belongs the largest longer one, which is at most twice as long; lying and standing.
    """
    area = size[0] * size[1]
    found = [size]
    for short in range(step, math.isqrt(area) + 1, step):
        long = min(area // short // step * step, _LONGEST * short)
        if long >= short and short * long >= _LEAST_AREA * area:
            found += [each for each in dict.fromkeys([(short, long), (long, short)]) if each not in found]
    return tuple(found)


def nearest(original: Size, sizes: Sequence[Size]) -> Size:
    """Return the size, of several, that cuts least of a picture; of those that are alike, the first."""
    shape = math.log(original[1] / original[0])
    return min(sizes, key=lambda size: round(abs(math.log(size[1] / size[0]) - shape), 9))


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


def views(original: Size, settings: PictureSettings, size: Size) -> tuple[View, ...]:
    """List the views of a picture at a size that training uses: at each place of a random crop, plain and mirrored."""
    crops = _boxes(original, size, settings.random_crop) if settings.mode in ("crop", "buckets") else [None]
    inside = _inner_box(original, size) if settings.mode == "pad" else None
    flips = (False, True) if settings.random_flip else (False,)
    return tuple(View(original, size, crop, flip, inside) for crop in crops for flip in flips)


def corner(view: View) -> tuple[float, float]:
    """Return where a view begins in the whole picture at its scale: how much is cut off above it, and left of it."""
    if view.crop is None:
        return 0.0, 0.0
    left, top, right, bottom = view.crop
    height, width = _inner_size(view)
    beside = view.original[1] - right if view.flip else left  # of the mirrored picture
    return float(round(top * height / (bottom - top))), float(round(beside * width / (right - left)))


def in_words(view: View) -> str:
    """Describe how a view fits a picture to its size."""
    (before_height, before_width), (height, width) = view.original, view.size
    fitted = []
    if cut := share_cut_off(view):
        fitted.append(f"{cut:.0%} cut off")
    if (factor := squeeze(view)) > 1.005:
        fitted.append(f"squeezed by {factor:.2f}")
    return f"{before_width} x {before_height} to {width} x {height}" + "".join(f", {each}" for each in fitted)


def to_pixels(image: Image.Image, view: View) -> Array:
    """Turn a view of a picture into float32 pixels [3, height, width] in [-1, 1]; what lies about it is 0, grey."""
    scaled = _scaled(image, view)
    for enhance, factor in zip(_COLOURS, view.colours):
        scaled = enhance(scaled).enhance(factor)
    pixels = (np.asarray(scaled, dtype=np.float32) / 127.5 - 1).transpose(2, 0, 1)
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
        scaled = np.asarray(_scaled(mask, view), dtype=np.float32)
        weights = unmasked + (1 - unmasked) * scaled[None] / 255
    return _placed(weights, view)


def region(size: Size, numbers: np.random.Generator) -> Array:
    """Draw a region [1, height, width] to paint, 1 within and 0 outside: a box, an ellipse, or the whole picture.

    Of ten regions, one is the whole picture, so that a model can also draw without one. The others have sides of a
    quarter to all of the picture's.
    """
    height, width = size
    kind = numbers.random()
    if kind < _WHOLE_REGIONS:
        return np.ones((1, height, width), np.float32)
    sides = [max(1, round(side * numbers.uniform(_LEAST_REGION, 1))) for side in size]
    corners = [int(numbers.integers(whole - side + 1)) for whole, side in zip(size, sides)]
    rows, columns = (
        (np.arange(whole, dtype=np.float32) + 0.5 - corner) / side * 2 - 1
        for whole, corner, side in zip(size, corners, sides)
    )
    if kind < (1 + _WHOLE_REGIONS) / 2:
        inside = (np.abs(rows)[:, None] < 1) & (np.abs(columns)[None] < 1)
    else:
        inside = rows[:, None] ** 2 + columns[None] ** 2 < 1
    return np.asarray(inside[None], dtype=np.float32)


def _inner_size(view: View) -> Size:
    """Return the size of the picture within a view."""
    left, top, right, bottom = view.inside or (0, 0, view.size[1], view.size[0])
    return int(bottom - top), int(right - left)


def _scaled(image: Image.Image, view: View) -> Image.Image:
    height, width = _inner_size(view)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=view.crop)


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


def _boxes(original: Size, size: Size, is_random: bool) -> list[Box | None]:
    """Find the largest boxes in a picture that have the shape of a size; None is the whole picture.

    One is about the centre; a random crop has others from one end to the other.
    """
    height, width = original
    ratio = size[1] / size[0]
    if width / height == ratio:
        return [None]
    inside = (width, width / ratio) if width / height < ratio else (ratio * height, height)
    places = [place / (_PLACES - 1) for place in range(_PLACES)] if is_random else [0.5]
    corners = [((width - inside[0]) * place, (height - inside[1]) * place) for place in places]
    return [(left, top, left + inside[0], top + inside[1]) for left, top in corners]
