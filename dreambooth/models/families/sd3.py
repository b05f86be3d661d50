"""Stable Diffusion 3: a transformer that sees picture and prompt in one row of tokens, and flows from noise to latents.

Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (arXiv 2403.03206). Prompts
go through two CLIPs and T5. T5 does not train, and a model may come without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import paddle
from paddle.nn import functional

from dreambooth.files import safetensors, single_file
from dreambooth.files.safetensors import Reader
from dreambooth.models import registry, saving, tokenizers
from dreambooth.models.family.base import Family
from dreambooth.system.errors import BadInput
from dreambooth.system.patches import layers
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from paddle import Tensor

    from dreambooth.config.commands import DrawSettings
    from dreambooth.config.run_sections import SaveFormat
    from dreambooth.models.family.interfaces import Source
    from dreambooth.system.types import Pipeline, Size, Tensors


class StableDiffusion3(Family):
    """A transformer that predicts the way from latents to noise, and sees the prompt as tokens and as one vector."""

    facts = registry.FAMILIES["StableDiffusion3Pipeline"]

    @override
    def __init__(self, pipeline: Pipeline, source: Source, train_text_encoders: bool = False) -> None:
        layers.flow_through_blocks()
        super().__init__(pipeline, source, train_text_encoders)

    @override
    def encode_prompts(self, prompts: Sequence[str]) -> Tensors:
        """Encode prompts: "hidden" [prompts, tokens of CLIP and T5, width], "pooled" [prompts, width of both CLIPs]."""
        hidden, pooled = tokenizers.encode_by_clips(tokenizers.readers(self.pipeline, self.facts), prompts)
        of_clip, width = paddle.concat(hidden, axis=-1), self.denoiser.config.joint_attention_dim
        of_clip = functional.pad(of_clip, (0, width - of_clip.shape[-1]), data_format="NCL")
        if "text_encoder_3" in self.facts.parts:
            ids = tokenizers.tokens(self.pipeline.tokenizer_3, prompts, self.facts.t5_tokens)
            of_t5 = self.pipeline.text_encoder_3(ids)[0].astype(of_clip.dtype)
        else:
            of_t5 = paddle.zeros([len(prompts), self.facts.t5_tokens, width], of_clip.dtype)
        return {"hidden": paddle.concat([of_clip, of_t5], axis=1), "pooled": paddle.concat(pooled, axis=-1)}

    @override
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        """Predict the way from the latents to the noise."""
        return self.pipeline.transformer(noisy, conditioning["hidden"], conditioning["pooled"], t, return_dict=False)[0]

    @override
    def prompt_arguments(self, prompts: Sequence[str], negative: str | None, guided: bool) -> dict[str, Any]:
        """Name prompts as the pipeline takes them, encoded as for training: the pipeline fails on long ones."""
        with paddle.no_grad():
            encoded = {"": self.encode_prompts(prompts)}
            if guided:
                encoded["negative_"] = self.encode_prompts([negative or ""] * len(prompts))
        names = {"prompt_embeds": "hidden", "pooled_prompt_embeds": "pooled"}
        return {f"{sign}{name}": each[own] for sign, each in encoded.items() for name, own in names.items()}

    @override
    def check_training(self, size: Size, gradient_checkpointing: bool) -> None:
        """Refuse sizes that are no whole number of patches, or more than the transformer has positions for."""
        settings = self.denoiser.config
        most = settings.pos_embed_max_size * self.size_step
        for name, side in zip(("height", "width"), size):
            if side % self.size_step or side > most:
                raise BadInput(f"--{name} {side}: must be a multiple of {self.size_step}, and at most {most}")

    @override
    def check_drawing(self, settings: DrawSettings) -> None:
        """Refuse other schedulers than its own, and sizes that it has no positions for."""
        if settings.scheduler and settings.is_scheduler_chosen:
            flag = f"{settings.scheduler_flag} {settings.scheduler}"
            raise BadInput(
                f"{flag}: this model flows to pictures, and can't draw with it; it can with its own; leave it out"
            )
        self.check_training(settings.size, gradient_checkpointing=False)
        super().check_drawing(settings)

    @property
    @override
    def size_step(self) -> int:
        """The number of pixels of which sizes are multiples: those of a patch."""
        return self.space.factor * self.denoiser.config.patch_size

    @override
    def untrained_layers(self) -> Mapping[str, Sequence[str]]:
        """Name the last block's query of the prompt, which nothing reads, and norms that have a bias here alone."""
        last = f"transformer_blocks.{self.denoiser.config.num_layers - 1}"
        return {"transformer": (f"{last}.attn.add_q_proj", f"{last}.norm1_context.norm", "norm_out.norm")}

    @override
    def single_file_layout(self) -> dict[str, Any]:
        """Return where the networks lie in one file."""
        texts = dict(zip(self.facts.prompt_encoders, (*single_file.CLIPS_OF_3, single_file.T5_OF_3)))
        sections = {"transformer": single_file.TRANSFORMER, "vae": single_file.VAE, **texts}
        return {"sections": sections, "layers_per_block": 0}

    @override
    def finish_folder(self, folder: Path, save_format: SaveFormat) -> None:
        """Leave out the biases that torch has not: they are zero, and do not train."""
        if save_format != "diffusers":
            return
        path = folder / self.facts.denoiser / saving.TORCH_WEIGHTS
        biases = {f"{name}.bias" for name in self.untrained_layers()[self.facts.denoiser][1:]}
        safetensors.write(
            path, {name: each for name, each in Reader(path).items() if name not in biases}, {"format": "pt"}
        )
