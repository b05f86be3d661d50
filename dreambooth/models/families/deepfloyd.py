"""DeepFloyd IF: a UNet that denoises the pixels of a small picture, and a second one that enlarges it.

Both read prompts by T5, which does not train, as Saharia et al. 2022 ("Imagen", arXiv 2205.11487) have it; DreamBooth
(Ruiz et al. 2022, arXiv 2208.12242) was made for such a pair. The UNets also predict the variance of each step. It has
no loss here (Ho et al. 2020, arXiv 2006.11239, have none either), so pictures are drawn with a fixed one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import paddle
from paddle.nn import functional

from dreambooth.models import registry, schedulers, tokenizers
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

_TOKENS = 77  # of a prompt, as the models were trained
_ENLARGEMENT = 4  # of the second stage: 64 to 256 pixels


class DeepFloyd(Family):
    """A UNet that denoises pixels, conditioned on the hidden states of T5."""

    facts = registry.FAMILIES["IFPipeline"]

    @override
    def __init__(self, pipeline: Pipeline, source: Source, train_text_encoders: bool = False) -> None:
        if train_text_encoders:
            raise BadInput("--train_text_encoder: T5, which this model reads prompts by, does not train; leave it out")
        super().__init__(pipeline, source)
        schedulers.fix_variance(pipeline)
        tokenizers.limit_length(pipeline.tokenizer, _TOKENS)

    @override
    def encode_prompts(self, prompts: Sequence[str]) -> Tensors:
        """Encode prompts, in small letters as the pipeline does: "hidden" [prompts, tokens, width]."""
        found = self.tokenizer(
            [prompt.lower().strip() for prompt in prompts],
            padding="max_length",
            max_length=_TOKENS,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pd",
        )
        return {"hidden": self.pipeline.text_encoder(found.input_ids, attention_mask=found.attention_mask)[0]}

    @override
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        """Predict the noise; the other half of the channels is a variance."""
        return self.pipeline.unet(noisy, t, conditioning["hidden"]).sample[:, : self.space.channels]

    @override
    def check_training(self, size: Size, gradient_checkpointing: bool) -> None:
        """Refuse sizes that the UNet can't halve as often as it does."""
        for name, side in zip(("height", "width"), size):
            if side % self.size_step:
                raise BadInput(f"--{name} {side}: must be a multiple of {self.size_step}, as the UNet halves it")

    @override
    def whole(self, scheduler: str | None = None) -> DeepFloyd:
        """Copy the family with all parts, and with another scheduler, which keeps pixels in their range."""
        family = cast("DeepFloyd", super().whole(scheduler))
        if scheduler:
            own = family.pipeline.scheduler
            family.pipeline.scheduler = own.from_config(own.config, thresholding=True)
        return family

    @override
    def check_drawing(self, settings: DrawSettings) -> None:
        """Refuse solvers that do not keep pixels in their range, and so wash them out, and sizes like in training."""
        self.check_training(settings.size, gradient_checkpointing=False)
        name = settings.scheduler
        if name and not schedulers.SCHEDULERS[name].thresholds:
            able = ", ".join(name for name, facts in schedulers.SCHEDULERS.items() if facts.thresholds)
            reason = f"a model of pixels can't be drawn with it; it can with {able}"
            raise BadInput(f"{settings.scheduler_flag} {name}: {reason}")
        super().check_drawing(settings)


class DeepFloydUpscaler(DeepFloyd):
    """A UNet that denoises the pixels of a large picture, and sees it small, with a little noise."""

    facts = registry.FAMILIES["IFSuperResolutionPipeline"]
    enlargement = _ENLARGEMENT

    @override
    def encode_pictures(self, pixels: Tensor, mask: Tensor | None = None) -> Tensors:
        """Return the pixels, and what a first stage would have drawn of them."""
        return {**super().encode_pictures(pixels, mask), "small": functional.avg_pool2d(pixels, _ENLARGEMENT)}

    @override
    def conditioning(self, prompts: Tensors, encoding: Tensors, views: Sequence[View]) -> Tensors:
        """Add the small picture at the large one's size, with the noise of "augmentation" if there is any."""
        small, noise = encoding["small"], encoding.get("augmentation")
        size = [side * _ENLARGEMENT for side in small.shape[2:]]
        small = functional.interpolate(small, size, mode="bilinear", align_corners=True)
        level = paddle.full([len(small)], self.facts.noise_level, "int64")
        if noise is not None:
            small = self.pipeline.image_noising_scheduler.add_noise(small, noise.astype(small.dtype), level)
        return {**prompts, "small": small, "level": level}

    @override
    def first_latents(self, seed: int, purpose: str, keys: Sequence[Key], size: Size) -> dict[str, Tensor]:
        """Draw the noise that pictures begin as, and that of the small pictures."""
        found = super().first_latents(seed, purpose, keys, size)
        return {
            **found,
            "augmentation": self._first_noise(seed, f"{purpose} augmentation", keys, self.space.shape(size)),
        }

    @override
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        """Predict the noise; the other half of the channels is a variance."""
        seen = paddle.concat([noisy, conditioning["small"]], axis=1)
        found = self.pipeline.unet(seen, t, conditioning["hidden"], class_labels=conditioning["level"]).sample
        return found[:, : self.space.channels]

    @override
    def check_drawing(self, settings: DrawSettings) -> None:
        """Refuse to draw from a prompt alone."""
        registry.check_start(self.facts, settings.from_picture)
        super().check_drawing(settings)
