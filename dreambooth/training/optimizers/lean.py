"""Optimizers with little state: an AdamW of 8 bits, and Adafactor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import paddle

from dreambooth.system.types import override
from dreambooth.training.optimizers.custom import Custom

if TYPE_CHECKING:
    from collections.abc import Callable

    from paddle import Tensor

_MOST = 10.0  # of Adam's change, which is about 1; a level too low would make a large one


class AdamW8Bit(Custom):
    """AdamW whose moments are bytes, in blocks of 256 with a scale each, after Dettmers et al. 2022.

    A byte is the fourth root of a moment's share of the largest in its block, so that small ones have levels too. The
    first moment is signed. Of the second its root is kept. Small parameters keep float32.
    """

    _BLOCK, _SMALL, _AT_ONCE = 256, 4096, 1 << 20

    @override
    def _shapes(self, parameter: Tensor) -> dict[str, tuple[list[int], str]]:
        if parameter.size < self._SMALL:
            return {name: (parameter.shape, "float32") for name in ("moment1", "moment2")}
        blocks = -(-parameter.size // self._BLOCK)
        shapes = {"moment1": ([blocks * self._BLOCK], "int8"), "moment2": ([blocks * self._BLOCK], "uint8")}
        return {**shapes, **{name: ([blocks], "float32") for name in ("scale1", "scale2")}}

    @override
    def _change(self, parameter: Tensor, gradient: Tensor, state: Callable[[str], Tensor], step: int) -> Tensor:
        if parameter.size < self._SMALL:
            first, second, change = self._moments(state("moment1"), state("moment2"), gradient, step)
            paddle.assign(first, state("moment1"))
            paddle.assign(second, state("moment2"))
            return change
        flat = gradient.flatten()
        names = "moment1", "moment2", "scale1", "scale2"
        old = [state(name) for name in names]
        flat = paddle.concat([flat, paddle.zeros([old[0].size - flat.size])]) if old[0].size > flat.size else flat
        parts: list[tuple[Tensor, ...]] = []
        for begin in range(0, flat.size, self._AT_ONCE):  # what is at work at once fits the caches
            end = min(begin + self._AT_ONCE, flat.size)
            blocks = slice(begin // self._BLOCK, end // self._BLOCK)
            first, root, scale1, scale2 = (old[0][begin:end], old[1][begin:end], old[2][blocks], old[3][blocks])
            parts.append(self._part(flat[begin:end], first, root, scale1, scale2, step))
        for tensor, new in zip(old, map(paddle.concat, list(zip(*parts))[:4])):
            paddle.assign(new, tensor)
        return paddle.concat([part[4] for part in parts])[: parameter.size].reshape(parameter.shape)

    def _part(
        self, gradient: Tensor, first: Tensor, root: Tensor, scale1: Tensor, scale2: Tensor, step: int
    ) -> tuple[Tensor, ...]:
        """Return the new bytes and scales of some blocks, and their change."""
        rows = [-1, self._BLOCK]
        signed = first.astype("float32").reshape(rows) / 127
        moment1 = signed.sign() * signed.square().square() * scale1.unsqueeze(1)
        moment2 = ((root.astype("float32").reshape(rows) / 255).square().square() * scale2.unsqueeze(1)).square()
        moment1, moment2, change = self._moments(moment1, moment2, gradient.reshape(rows), step)
        roots, sizes = moment2.sqrt(), moment1.abs()
        scale1, scale2 = sizes.max(1), roots.max(1)
        least = float(np.finfo(np.float32).tiny)
        levels = (sizes / scale1.clip(least).unsqueeze(1)).sqrt().sqrt() * 127
        first = ((levels + self._dither(len(sizes), 0.5497 * step)).floor().clip(max=127) * moment1.sign()).astype(
            "int8"
        )
        levels = (roots / scale2.clip(least).unsqueeze(1)).sqrt().sqrt() * 255
        above_0 = (roots > 0).astype("float32")  # a 0 would make a large step
        root = (levels + self._dither(len(roots), 0.7549 * step)).floor().clip(max=255).maximum(above_0).astype("uint8")
        return first.flatten(), root.flatten(), scale1, scale2, change.flatten()

    def _dither(self, blocks: int, shift: float) -> Tensor:
        """Return evenly spread numbers from 0 to 1, to be added before rounding down.

        A moment changes by less than a level in a step. Without this, CLIP-I goes 79 % of the way in place of 95.
        """
        numbers = paddle.arange(self._BLOCK, dtype="float32") * 0.6180 + (shift % 1)
        numbers = numbers.unsqueeze(0) + paddle.arange(blocks, dtype="float32").unsqueeze(1) * 0.3247
        return numbers - numbers.floor()

    def _moments(self, moment1: Tensor, moment2: Tensor, gradient: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the new moments, and Adam's change (Kingma & Ba 2015, algorithm 1)."""
        beta1, beta2 = self._settings.adam_beta1, self._settings.adam_beta2
        moment1 = moment1 * beta1 + gradient * (1 - beta1)
        moment2 = moment2 * beta2 + gradient.square() * (1 - beta2)
        root = (moment2 / (1 - beta2**step)).sqrt() + self._settings.adam_epsilon
        return moment1, moment2, (moment1 / (1 - beta1**step) / root).clip(-_MOST, _MOST)


class Adafactor(Custom):
    """Adafactor (Shazeer & Stern 2018, algorithm 4) without a first moment, at the rate of the schedule.

    Of a matrix's second moment it keeps the means of rows and columns alone. The change is clipped where its root mean
    square is above 1, so a rate means what it means to Adam.
    """

    @override
    def _shapes(self, parameter: Tensor) -> dict[str, tuple[list[int], str]]:
        if parameter.ndim < 2:
            return {"second": (parameter.shape, "float32")}
        rows = parameter.shape[0]
        return {"row": ([rows], "float32"), "column": ([parameter.size // rows], "float32")}

    @override
    def _change(self, parameter: Tensor, gradient: Tensor, state: Callable[[str], Tensor], step: int) -> Tensor:
        share = step**-0.8  # 1 - beta2 of this step, section 7.2
        squares = gradient.square() + 1e-30
        if parameter.ndim < 2:
            paddle.assign(state("second") * (1 - share) + squares * share, state("second"))
            change = gradient / state("second").sqrt()
        else:
            squares = squares.reshape([parameter.shape[0], -1])
            for name, axis in (("row", 1), ("column", 0)):
                paddle.assign(state(name) * (1 - share) + squares.mean(axis) * share, state(name))
            row = (state("row") / state("row").mean()).rsqrt().unsqueeze(1)
            change = gradient.reshape(squares.shape) * row * state("column").rsqrt().unsqueeze(0)
            change = change.reshape(parameter.shape)
        return change / change.square().mean().sqrt().clip(min=1.0)
