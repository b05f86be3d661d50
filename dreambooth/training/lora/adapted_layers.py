"""The layers of a LoRA: two thin matrices beside a product or a convolution, and its columns' lengths for DoRA."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import paddle
from paddle import nn
from ppdiffusers.models.lora import LoRAConv2dLayer, LoRALinearLayer

from dreambooth.files.lora import Matrices

if TYPE_CHECKING:
    from collections.abc import Callable

    from paddle import Tensor

    from dreambooth.system.types import Array

    Draw = Callable[[tuple[int, ...]], Array]  # standard normal numbers of a shape


_NO_LENGTH = 1e-12  # of weights that are all zero


class Shape(NamedTuple):
    """The rank of a layer's two matrices, and the factor on their product."""

    rank: int
    scale: float
    is_recorded: bool = False  # whether a checkpoint needs to have the scale, since layers differ by it


class AdaptedLayer:
    """What a LoRA has beside one layer, which stays as it is.

    `layer` holds its weights. DoRA (Liu et al. 2024, arXiv 2402.09353) splits the adapted matrix into directions and
    lengths, and the lengths train too.
    """

    def __init__(self, adapted: nn.Layer, shape: Shape, with_lengths: bool, draw: Draw) -> None:
        self.adapted, self._scale = adapted, np.float32(shape.scale)
        self.is_convolution = isinstance(adapted, nn.Conv2D)
        rank, alpha = shape.rank, shape.scale * shape.rank
        if self.is_convolution:
            out, into, *kernel = adapted.weight.shape
            stride, padding = adapted._stride, adapted._padding  # noqa: SLF001  the library keeps them nowhere else
            self.layer = LoRAConv2dLayer(into, out, rank, tuple(kernel), stride, padding, network_alpha=alpha)
            # so that a kernel of many places has no larger output at the start
            start = draw((rank, into, *kernel)) / math.sqrt(math.prod(kernel))
        else:
            into, out = adapted.weight.shape
            self.layer = LoRALinearLayer(into, out, rank, network_alpha=alpha, dtype="float32")
            start = draw((into, rank))
        self.inputs = into
        self.layer.down.weight.set_value((start / rank).astype(np.float32))  # the spread that the library gives it
        if shape.is_recorded:
            self.layer.register_buffer("alpha", paddle.to_tensor(np.float32(alpha)), persistable=True)
        if with_lengths:
            self.layer.magnitude = self.layer.create_parameter([out], dtype="float32")
            self.layer.magnitude.set_value(self._lengths())

    def add(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the output of the adapted layer with this share in it."""
        # in half precision, attention's fast kernels need queries, keys and values in it
        change = self.layer(inputs).astype(output.dtype)
        if not self._has_lengths:
            return output + change
        # a gradient through the lengths would take more memory, and changes little (section 4.3)
        factor = self._of_outputs(self.layer.magnitude / self._lengths().clip(_NO_LENGTH), output)
        bias = self.adapted.bias
        product = output if bias is None else output - self._of_outputs(bias, output)
        return output + (factor - 1) * product + factor * change

    def dropped(self, inputs: Tensor, kept: Tensor) -> Tensor:
        """Scale the inputs by factors [rows, features], the same at all places of a row."""
        places = [1] * (inputs.ndim - 2)
        shape = [len(kept), kept.shape[1], *places] if self.is_convolution else [len(kept), *places, kept.shape[1]]
        return inputs * kept.reshape(shape)

    def matrices(self) -> Matrices:
        """Return the matrices in torch's layout, the scale in the second."""
        down, up = self.layer.down.weight.numpy(), self.layer.up.weight.numpy()
        if not self.is_convolution:
            down, up = down.T, up.T
        lengths = self.layer.magnitude.numpy() if self._has_lengths else None
        return Matrices(down, up * self._scale, lengths)

    @property
    def _has_lengths(self) -> bool:
        return hasattr(self.layer, "magnitude")

    @paddle.no_grad()
    def _lengths(self) -> Tensor:
        """Compute the length of the weights of each output [out] with the change in them."""
        weight, down, up = self.adapted.weight.astype("float32"), self.layer.down.weight, self.layer.up.weight
        if self.is_convolution:
            change = up.flatten(1) @ down.flatten(1)
            return (weight.flatten(1) + change * self._scale).square().sum(1).sqrt()
        return (weight + down @ up * self._scale).square().sum(0).sqrt()

    def _of_outputs(self, values: Tensor, output: Tensor) -> Tensor:
        """Give values [out] the shape that scales an output."""
        shape = [1, -1, 1, 1] if self.is_convolution else [1] * (output.ndim - 1) + [-1]
        return values.reshape(shape).astype(output.dtype)
