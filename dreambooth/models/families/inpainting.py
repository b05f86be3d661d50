"""Inpainting models of Stable Diffusion: the UNet also sees a region to paint, and the picture outside it.

The layers before the UNet's own are those of runwayml/stable-diffusion-inpainting: 4 channels of latents, 1 of the
region and 4 of the rest of the picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import paddle
from paddle.nn import functional

from dreambooth.models import registry
from dreambooth.models.families.stable_diffusion import StableDiffusion
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paddle import Tensor

    from dreambooth.data.concepts import View
    from dreambooth.system.types import Key, Size, Tensors


class Inpainting(StableDiffusion):
    """A UNet that denoises the latents of a region, and sees the latents of the picture without it."""

    facts = registry.FAMILIES["StableDiffusionInpaintPipeline"]

    @override
    def encode_pictures(self, pixels: Tensor, mask: Tensor | None = None) -> Tensors:
        """Encode pixels, and what is left of them outside the region [n, 1, height, width] to paint: all of it is 1."""
        found = super().encode_pictures(pixels)
        if mask is None:
            mask = paddle.ones([len(pixels), 1, *pixels.shape[2:]], pixels.dtype)
        return {**found, **self.surroundings(pixels, mask)}

    def surroundings(self, pixels: Tensor, mask: Tensor) -> Tensors:
        """Return "region" and "rest" [n, …], as the UNet sees them; the encoding is the VAE's mean, not a draw."""
        region = (mask >= 0.5).astype(pixels.dtype)
        kept = self.space.encode(self.decoder, pixels * (1 - region))
        rest = self.space.draw(kept, paddle.zeros_like(kept["mean"]))
        return {"region": functional.interpolate(region, rest.shape[2:], mode="nearest"), "rest": rest}

    @override
    def conditioning(self, prompts: Tensors, encoding: Tensors, views: Sequence[View]) -> Tensors:
        """Add the region, and the rest of the picture."""
        return {**prompts, "region": encoding["region"], "rest": encoding["rest"]}

    @override
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        """Predict the noise or the velocity, as the model was made to."""
        seen = paddle.concat([noisy, conditioning["region"], conditioning["rest"]], axis=1)
        return self.pipeline.unet(seen, t, conditioning["hidden"]).sample

    @override
    def first_latents(self, seed: int, purpose: str, keys: Sequence[Key], size: Size) -> dict[str, Tensor]:
        """Draw the noise that pictures begin as, where a whole picture is to be painted."""
        pixels = paddle.zeros([1, 3, *size], self.space.exact_type(self.decoder))  # as every batch has it
        with paddle.no_grad():
            rest = self.surroundings(pixels, paddle.ones([1, 1, *size], pixels.dtype))["rest"]
        return {
            **super().first_latents(seed, purpose, keys, size),
            "image": pixels.expand([len(keys), 3, *size]),
            "mask_image": paddle.ones([len(keys), 1, *size], pixels.dtype),
            "masked_image_latents": rest.expand([len(keys), *rest.shape[1:]]),
        }
