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
from dreambooth.models.families.upscaler import Enlarging
from dreambooth.models.family.base import Family
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paddle import Tensor

    from dreambooth.config.commands import DrawSettings
    from dreambooth.models.family.interfaces import Source
    from dreambooth.system.types import Pipeline, Size, Tensors

_TOKENS = 77  # of a prompt, as the models were trained


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
        found = self.pipeline.tokenizer(
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


class DeepFloydUpscaler(Enlarging, DeepFloyd):
    """A UNet that denoises the pixels of a large picture, and sees it small, at the large one's size."""

    facts = registry.FAMILIES["IFSuperResolutionPipeline"]
    enlargement = 4  # 64 to 256 pixels
    noising = "image_noising_scheduler"

    @override
    def as_seen(self, small: Tensor) -> Tensor:
        """Return a small picture at the large one's size."""
        size = [side * self.enlargement for side in small.shape[2:]]
        return functional.interpolate(small, size, mode="bilinear", align_corners=True)

    @override
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        """Predict the noise; the other half of the channels is a variance."""
        seen = paddle.concat([noisy, conditioning["small"]], axis=1)
        found = self.pipeline.unet(seen, t, conditioning["hidden"], class_labels=conditioning["level"]).sample
        return found[:, : self.space.channels]
