"""The space that a denoiser works in: the latents of a VAE, or the pixels themselves.

The decoder is given to each method, because it may be freed, and loaded again.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

import paddle

from dreambooth.system.types import override

if TYPE_CHECKING:
    from paddle import Tensor

    from dreambooth.system.types import Network, Size, Tensors


class Space(Protocol):
    """A space for pictures."""

    channels: int  # of a place
    factor: int  # pixels to a place, each way

    def encode(self, decoder: Any, pixels: Tensor) -> Tensors:  # noqa: ANN401  the library's, if there is one
        """Encode pixels [n, 3, height, width]: "mean", and "std" where an encoding is a distribution."""

    def draw(self, encoding: Tensors, noise: Tensor) -> Tensor:
        """Draw the latents [n, …] of encoded pictures with noise of the shape of "mean"."""

    def exact_type(self, decoder: Any) -> Any:  # noqa: ANN401
        """Return the type of numbers that a decoder computes in without overflow; None: there is no decoder."""

    def decode(self, decoder: Any, latents: Tensor) -> Tensor:  # noqa: ANN401
        """Return the pixels of latents, in float32."""

    def shape(self, size: Size) -> tuple[int, int, int]:
        """Return the shape of the latents of a picture."""


class Latents(Space):
    """The latents of a VAE, shifted and scaled as a model has them."""

    def __init__(self, vae: Network, factor: int) -> None:
        settings = vae.config
        self.channels, self.factor = settings.latent_channels, factor
        self.shift, self.scale = settings.get("shift_factor") or 0.0, settings.scaling_factor

    @override
    def encode(self, decoder: Any, pixels: Tensor) -> Tensors:  # noqa: ANN401
        """Encode pixels: "mean" and "std" of the latents."""
        found = decoder.encode(pixels).latent_dist
        return {"mean": found.mean, "std": found.std}

    @override
    def draw(self, encoding: Tensors, noise: Tensor) -> Tensor:
        """Draw latents from their distribution."""
        mean = encoding["mean"] - self.shift if self.shift else encoding["mean"]
        return (mean + encoding["std"] * noise) * self.scale

    @override
    def exact_type(self, decoder: Any) -> Any:  # noqa: ANN401
        """Return the VAE's type of numbers, once it is in float32 where half precision would overflow."""
        if "float16" in str(decoder.dtype) and decoder.config.get("force_upcast"):
            decoder.to(dtype="float32")
        return decoder.dtype

    @override
    def decode(self, decoder: Any, latents: Tensor) -> Tensor:  # noqa: ANN401
        """Decode latents."""
        kind = self.exact_type(decoder)
        is_half = "float32" not in str(kind)
        with contextlib.nullcontext() if is_half else paddle.amp.auto_cast(enable=False):  # else it would be again
            return decoder.decode((latents / self.scale + self.shift).astype(kind)).sample.astype("float32")

    @override
    def shape(self, size: Size) -> tuple[int, int, int]:
        """Return the channels, and how many places there are each way."""
        return self.channels, size[0] // self.factor, size[1] // self.factor


class Pixels(Space):
    """The pixels: nothing is encoded, and nothing drawn."""

    channels, factor = 3, 1

    @override
    def encode(self, decoder: Any, pixels: Tensor) -> Tensors:  # noqa: ANN401
        """Return the pixels."""
        return {"mean": pixels}

    @override
    def draw(self, encoding: Tensors, noise: Tensor) -> Tensor:
        """Return the pixels, whatever the noise."""
        return encoding["mean"]

    @override
    def exact_type(self, decoder: Any) -> Any:  # noqa: ANN401
        """Return None."""

    @override
    def decode(self, decoder: Any, latents: Tensor) -> Tensor:  # noqa: ANN401
        """Return the pixels."""
        return latents.astype("float32")

    @override
    def shape(self, size: Size) -> tuple[int, int, int]:
        """Return the three colours, and the size."""
        return self.channels, *size
