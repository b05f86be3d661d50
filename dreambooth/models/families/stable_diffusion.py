"""Stable Diffusion 1 and 2, and the models made from them (waifu, trinart, Taiyi …).

They differ by tokenizer, text encoder and scheduler, which all come from the model's own files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreambooth.files import single_file
from dreambooth.models import registry, saving
from dreambooth.models.family import facts
from dreambooth.models.family.base import Family
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paddle import Tensor

    from dreambooth.system.types import Tensors


class StableDiffusion(Family):
    """A UNet that denoises the latents of a VAE, conditioned on the hidden states of a text encoder."""

    facts = registry.FAMILIES["StableDiffusionPipeline"]

    @override
    def encode_prompts(self, prompts: Sequence[str]) -> Tensors:
        """Encode prompts: "hidden" [prompts, tokens, width].

        An attention mask goes in only where the text encoder's config has one.
        """
        tokenizer, text_encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        tokens = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pd",
        )
        mask = tokens.attention_mask if getattr(text_encoder.config, "use_attention_mask", False) else None
        return {"hidden": text_encoder(tokens.input_ids, attention_mask=mask)[0]}

    @override
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        """Predict the noise or the velocity, as the model was made to."""
        return self.pipeline.unet(noisy, t, conditioning["hidden"]).sample

    @override
    def single_file_layout(self) -> dict[str, Any]:
        """Return what the layout of the original Stable Diffusion depends on; it has none for other text encoders."""
        text_encoder = self.pipeline.text_encoder
        if type(text_encoder).__name__ != facts.CLIP_TEXT_ENCODER:
            raise saving.no_single_file(type(text_encoder).__name__)
        is_open_clip = text_encoder.config.hidden_act == "gelu"  # Stable Diffusion 1 has quick_gelu
        text = single_file.OPEN_CLIP if is_open_clip else single_file.CLIP
        sections = {"unet": single_file.UNET, "vae": single_file.VAE, "text_encoder": text}
        return {"sections": sections, "layers_per_block": self.pipeline.unet.config.layers_per_block}
