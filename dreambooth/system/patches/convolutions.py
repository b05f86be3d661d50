"""How a convolution without a gradient goes through its picture: fewer products, and copies that fit the caches."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from dreambooth.system import threads
from dreambooth.system.patches import layers

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from paddle import Tensor

    Convolution = Callable[..., Tensor]
    Way = Callable[[Convolution, Tensor, Tensor], Tensor]

_COPIES, _MANY_COPIES = 5 << 18, 1 << 22  # numbers that fit the caches, and those that are split
_TILED = 5 << 19  # numbers of the picture that are cut into tiles at once
_MANY_PRODUCTS, _CHANNELS = 1 << 27, 64  # from which tiles pay

# Winograd's matrices for 2 x 2 results of a 3 x 3 kernel (Lavin & Gray 2016, equation 10), for both sides at once
_OF_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], "float32")
_OF_PICTURE = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], "float32")
_OF_RESULT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], "float32")


def convolve_in_parts() -> None:
    """Let a 3 x 3 convolution on the CPU go by tiles or bands; call it before layers.add_biases_by_products."""
    # Library: Paddle 2.6.2 and 3.3.1, on the CPU.
    # Symptom: it first copies the picture nine times, once for each place of its kernel, on one core: 1.2 GB for 128
    # channels of 512 x 512. These go to memory and back. Then it takes nine products for each result.
    # Remedy: without a gradient, tiles of 2 x 2 results by Winograd's algorithm, which takes four, where channels are
    # many; else bands of rows whose copies fit the caches. Both on all cores.
    # Test: test_parts_are_the_whole, test_tiles_are_as_exact, test_paddle_alone_copies_the_whole_picture.
    from paddle.nn import functional

    def faster(convolve: Convolution) -> Convolution:
        signature = inspect.signature(convolve)

        def is_plain(*given: Any, **named: Any) -> bool:
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            ones = (bound.arguments[name] for name in ("stride", "padding", "dilation", "groups"))
            return bound.arguments["data_format"] == "NCHW" and all({*np.ravel(each)} == {1} for each in ones)

        def fast(x: Tensor, weight: Tensor, bias: Tensor | None = None, *more: Any, **named: Any) -> Tensor:
            is_3x3 = x.ndim == 4 and weight.shape[2:] == [3, 3] and bias is None
            way = _way(x, weight) if is_3x3 and layers.fits(x, weight) and not layers.learns(x, weight) else None
            if way and is_plain(x, weight, bias, *more, **named):
                return way(conv2d, x, weight)
            return convolve(x, weight, bias, *more, **named)

        return fast

    conv2d = functional.conv2d
    if conv2d.__module__ != __name__:
        functional.conv2d, functional.conv._conv_nd = map(faster, (conv2d, functional.conv._conv_nd))  # noqa: SLF001


def _way(x: Tensor, weight: Tensor) -> Way | None:
    """Choose how a convolution goes through its picture; None for the whole at once."""
    n, channels, height, width = x.shape
    copies = 9 * channels * height * width if n else 0  # of one picture: the others don't change its result
    has_tiles = height % 2 == width % 2 == 0 and min(weight.shape[:2]) >= _CHANNELS
    if has_tiles and copies * weight.shape[0] >= _MANY_PRODUCTS:
        return _by_tiles
    return _in_bands if copies > _MANY_COPIES else None


def _in_bands(conv2d: Convolution, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve band by band."""
    import paddle

    height = x.shape[2]
    rows = max(1, _COPIES // (9 * x.shape[1] * x.shape[3]))

    def band(first: int) -> Tensor:
        end = min(first + rows, height)
        with paddle.no_grad():
            part = x[:, :, max(first - 1, 0) : end + 1]  # with the neighbours of its first and last row
            return conv2d(part, weight, padding=[int(first == 0), int(end == height), 1, 1])

    return paddle.concat(threads.side_by_side(band, range(0, height, rows)), 2)


def _by_tiles(conv2d: Convolution, x: Tensor, weight: Tensor) -> Tensor:
    """Convolve by Winograd's algorithm: 16 products make 4 results from the 4 x 4 numbers around them."""
    import paddle
    from paddle.nn import functional

    def both_sides(matrix: NDArray[np.float32], *shape: int) -> Tensor:
        return paddle.to_tensor(np.kron(matrix, matrix).reshape(shape), place=x.place)

    n, channels, height, width = x.shape
    of_picture, of_result = both_sides(_OF_PICTURE, 16, 1, 4, 4), both_sides(_OF_RESULT.T, 16, 1, 2, 2)
    weights = paddle.matmul(both_sides(_OF_KERNEL, 16, 9), weight.reshape([-1, 9]), transpose_y=True)
    weights = weights.reshape([16, -1, channels])
    border = paddle.zeros([channels, 1, width])
    at_once = max(2, _TILED // (channels * width) // 2 * 2)

    def band(place: tuple[int, int]) -> Tensor:
        number, first = place
        end = min(first + at_once, height)
        rows = end - first
        with paddle.no_grad():
            part = x[number, :, max(first - 1, 0) : end + 1]
            part = paddle.concat([*[border] * (first == 0), part, *[border] * (end == height)], 1)
            # the channels below each other, as one picture: the two rows of tiles' results between them are cut again
            tiles = conv2d(part.reshape([1, 1, -1, width]), of_picture, stride=2, padding=[0, 2, 1, 1])
            products = paddle.matmul(weights, tiles.reshape([16, channels, -1]))
            results = functional.conv2d_transpose(products.reshape([1, 16, -1, width // 2]), of_result, stride=2)
            return results.reshape([1, -1, rows + 2, width])[:, :, :rows]

    bands = threads.side_by_side(band, [(number, first) for number in range(n) for first in range(0, height, at_once)])
    of_one = len(bands) // n
    pictures = [paddle.concat(bands[start : start + of_one], 2) for start in range(0, len(bands), of_one)]
    return paddle.concat(pictures)
