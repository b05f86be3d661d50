"""The edges of a picture in white on black, as a ControlNet for edges takes them.

This is the detector of Canny 1986, "A Computational Approach to Edge Detection", with the thresholds that the
ControlNets of Zhang et al. 2023 were trained with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from dreambooth.system.types import Array

_LOW, _HIGH = 100, 200  # of a gradient, the sum of its sizes along both axes
_DIAGONAL = np.tan(np.pi / 8)  # between a gradient along an axis and a diagonal one


def draw_edges(picture: Image.Image) -> Image.Image:
    """Draw the edges of a picture: where its grey changes most, and much, or much enough beside such a place."""
    grey = np.pad(np.asarray(picture.convert("L"), dtype=np.int32), 1, mode="edge")
    across, down = _smoothed(grey[:, 2:] - grey[:, :-2]), _smoothed((grey[2:] - grey[:-2]).T).T
    size = np.abs(across) + np.abs(down)
    edges = _connected(_thinned(size, across, down))
    return Image.fromarray(np.where(edges, 255, 0).astype(np.uint8)).convert("RGB")


def _smoothed(values: Array) -> Array:
    """Weight three neighbours along the first axis, as Sobel's operator does."""
    return values[:-2] + 2 * values[1:-1] + values[2:]


def _thinned(size: Array, across: Array, down: Array) -> Array:
    """Keep a gradient alone where no neighbour in its direction is larger."""
    padded = np.pad(size, 1)
    height, width = size.shape

    def neighbour(row: int, column: int) -> Array:
        return padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    flat, steep = np.abs(down) <= _DIAGONAL * np.abs(across), np.abs(across) <= _DIAGONAL * np.abs(down)
    falls = (across > 0) == (down > 0)
    directions = [(flat, (0, 1)), (steep, (1, 0)), (~flat & ~steep & falls, (1, 1)), (~flat & ~steep & ~falls, (1, -1))]
    kept = np.zeros_like(size)
    for chosen, (row, column) in directions:
        is_largest = (size > neighbour(-row, -column)) & (size >= neighbour(row, column))
        kept = np.where(chosen & is_largest, size, kept)
    return kept


def _connected(size: Array) -> Array:
    """Choose all places above the high threshold, and those above the low one that are connected to them."""
    possible, found = size > _LOW, size > _HIGH
    height, width = size.shape
    while True:
        padded = np.pad(found, 1)
        shifted = [padded[row : row + height, column : column + width] for row in range(3) for column in range(3)]
        grown = np.logical_or.reduce(shifted) & possible
        if (grown == found).all():
            return found
        found = grown
