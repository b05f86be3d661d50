"""Upscalers of Stable Diffusion: the UNet also sees a small picture, and draws a large one with its details.

Rombach et al. 2022 (arXiv 2112.10752) and Ho et al. 2021, "Cascaded Diffusion Models" (arXiv 2106.15282): the small
picture has some noise, and the UNet is told how much, so that it mends what a first stage gets wrong. DreamBooth (Ruiz
et al. 2022, arXiv 2208.12242) asks for little of it, or details of the subject are lost in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import paddle
from paddle.nn import functional

from dreambooth.models import registry, saving
from dreambooth.models.families.stable_diffusion import StableDiffusion
from dreambooth.models.family.base import Family
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paddle import Tensor

    from dreambooth.config.commands import DrawSettings
    from dreambooth.data.concepts import View
    from dreambooth.models.family.interfaces import Source
    from dreambooth.system.types import Key, Pipeline, Size, Tensors


class Enlarging(Family):
    """A family whose denoiser also sees a small picture, with a little noise; it precedes the kind that it enlarges."""

    noising: str  # the scheduler that adds the noise to it

    def as_seen(self, small: Tensor) -> Tensor:
        """Return a small picture as the denoiser sees it, before its noise."""
        return small

    @override
    def encode_pictures(self, pixels: Tensor, mask: Tensor | None = None) -> Tensors:
        """Encode pixels, and make them small, as a first stage would have drawn them."""
        return {**super().encode_pictures(pixels, mask), "small": functional.avg_pool2d(pixels, self.enlargement)}

    @override
    def conditioning(self, prompts: Tensors, encoding: Tensors, views: Sequence[View]) -> Tensors:
        """Add the small picture, with the noise of "augmentation" if there is any, and how much that is."""
        small, noise = self.as_seen(encoding["small"]), encoding.get("augmentation")
        level = paddle.full([len(small)], self.facts.noise_level, "int64")
        if noise is not None:
            small = getattr(self.pipeline, self.noising).add_noise(small, noise.astype(small.dtype), level)
        return {**prompts, "small": small, "level": level}

    @override
    def first_latents(self, seed: int, purpose: str, keys: Sequence[Key], size: Size) -> dict[str, Tensor]:
        """Draw the noise that pictures begin as, and that of the small pictures."""
        found = super().first_latents(seed, purpose, keys, size)
        shape = 3, *found["latents"].shape[2:]
        return {**found, "augmentation": self._first_noise(seed, f"{purpose} augmentation", keys, shape)}

    @override
    def check_drawing(self, settings: DrawSettings) -> None:
        """Refuse to draw from a prompt alone."""
        if not settings.from_picture:
            raise BadInput(
                f"a model of {self.facts.pipeline} enlarges pictures, and draws none from a prompt alone: give infer.py"
                " an --image, or this model as --upscaler; in training, leave out --validation_prompt, and put as many"
                " class pictures as --num_class_images into --class_data_dir"
            )
        super().check_drawing(settings)


class Upscaler(Enlarging, StableDiffusion):
    """A UNet that denoises the latents of a large picture, and sees it small: as wide and as high as they are."""

    facts = registry.FAMILIES["StableDiffusionUpscalePipeline"]
    noising = "low_res_scheduler"

    @override
    def __init__(self, pipeline: Pipeline, source: Source, train_text_encoders: bool = False) -> None:
        super().__init__(pipeline, source, train_text_encoders)
        self.enlargement = self.space.factor

    @override
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        """Predict the noise or the velocity, as the model was made to."""
        seen = paddle.concat([noisy, conditioning["small"]], axis=1)
        return self.pipeline.unet(seen, t, conditioning["hidden"], class_labels=conditioning["level"]).sample

    @override
    def single_file_layout(self) -> dict[str, Any]:
        """Refuse: the layout of the original Stable Diffusion has no place for its noise levels."""
        raise saving.no_single_file(self.facts.pipeline)
