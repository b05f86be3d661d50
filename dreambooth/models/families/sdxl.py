"""Stable Diffusion XL: two text encoders, and a UNet that is conditioned on the sizes of the pictures too.

Podell et al. 2023, "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis" (arXiv 2307.01952):
the UNet sees each picture's size before it was scaled, and the corner at which it was cut, so that small pictures and
cut ones may train it without becoming a habit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import paddle

from dreambooth.data import transforms
from dreambooth.files import single_file
from dreambooth.models import registry, tokenizers
from dreambooth.models.family.base import Family
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from paddle import Tensor

    from dreambooth.data.concepts import View
    from dreambooth.models.family.interfaces import Source
    from dreambooth.system.types import Pipeline, Tensors


class StableDiffusionXL(Family):
    """A UNet that denoises the latents of a VAE, conditioned on two text encoders and on sizes."""

    facts = registry.FAMILIES["StableDiffusionXLPipeline"]

    @override
    def __init__(self, pipeline: Pipeline, source: Source, train_text_encoders: bool = False) -> None:
        super().__init__(pipeline, source, train_text_encoders)
        self._last_layer = pipeline.text_encoder.config.num_hidden_layers - 1  # needed when the encoder is freed

    @override
    def encode_prompts(self, prompts: Sequence[str]) -> Tensors:
        """Encode prompts: "hidden" [prompts, tokens, width of both], and "pooled" [prompts, width of the second].

        Where the model draws without a prompt from zeros, an empty prompt is zeros.
        """
        hidden, (_, pooled) = tokenizers.encode_by_clips(tokenizers.readers(self.pipeline, self.facts), prompts)
        found = {"hidden": paddle.concat(hidden, axis=-1), "pooled": pooled}
        if not self.pipeline.config.force_zeros_for_empty_prompt or all(prompts):
            return found
        kept = paddle.to_tensor([[float(bool(prompt))] for prompt in prompts])
        return {"hidden": found["hidden"] * kept.unsqueeze(-1), "pooled": found["pooled"] * kept}

    @override
    def conditioning(self, prompts: Tensors, encoding: Tensors, views: Sequence[View]) -> Tensors:
        """Add "sizes" [n, 6]: those of the picture, the corner where it is cut, those of the view; heights first."""
        sizes = [[*view.original, *transforms.corner(view), *view.size] for view in views]
        return {**prompts, "sizes": paddle.to_tensor(sizes, dtype="float32")}

    @override
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        """Predict the noise or the velocity, as the model was made to."""
        added = {"text_embeds": conditioning["pooled"], "time_ids": conditioning["sizes"]}
        return self.pipeline.unet(noisy, t, conditioning["hidden"], added_cond_kwargs=added).sample

    @override
    def prompt_arguments(self, prompts: Sequence[str], negative: str | None, guided: bool) -> dict[str, Any]:
        """Name prompts as the pipeline takes them; each value has a row for each prompt."""
        with paddle.no_grad():
            encoded = self.pipeline.encode_prompt(
                list(prompts),
                do_classifier_free_guidance=guided,
                negative_prompt=negative and [negative] * len(prompts),
            )
        names = "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"
        return {name: value for name, value in zip(names, encoded) if value is not None}

    @override
    def untrained_layers(self) -> Mapping[str, Sequence[str]]:
        """Name the first text encoder's last layers, since the UNet sees the hidden states before them."""
        return {"text_encoder": (f"text_model.encoder.layers.{self._last_layer}", "text_model.final_layer_norm")}

    @override
    def single_file_layout(self) -> dict[str, Any]:
        """Return what the layout of the original Stable Diffusion XL depends on."""
        texts = {"text_encoder": single_file.CLIP_OF_XL, "text_encoder_2": single_file.OPEN_CLIP_OF_XL}
        sections = {"unet": single_file.UNET, "vae": single_file.VAE, **texts}
        return {"sections": sections, "layers_per_block": self.pipeline.unet.config.layers_per_block}
