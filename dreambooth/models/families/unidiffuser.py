"""UniDiffuser: one transformer for pictures and texts, trained here to draw pictures from texts.

A picture is two things to it: the latents of a VAE, and an embedding of CLIP's. Both are noised together, in one long
row, to the same timestep; the text has no noise. The loss is the sum of the mean over the latents and the mean over the
embedding. Every step of drawing uses both predictions, and a part that is not in the loss drifts (docs/models.md).
Bao et al. 2023, "One Transformer Fits All Distributions in Multi-Modal Diffusion at Scale", regress all noise, and
public scripts that fine-tune it add the two means.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from PIL import Image

from dreambooth.files import atomic, moves, safetensors
from dreambooth.files.safetensors import Reader
from dreambooth.models import registry, schedulers
from dreambooth.models.family.base import Family
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from paddle import Tensor

    from dreambooth.config.commands import DrawSettings
    from dreambooth.config.run_sections import SaveFormat
    from dreambooth.system.types import Key, Size, Tensors

_OWN_DATA = 1  # of the two kinds of data that version 1 distinguishes, the one that its pipeline draws with
_NEWER_CLASSES = {"GPTTokenizer": "GPT2Tokenizer"}


class UniDiffuser(Family):
    """A transformer that denoises two encodings of a picture, noised together, and sees the text's embedding."""

    facts = registry.FAMILIES["UniDiffuserPipeline"]

    @override
    def encode_prompts(self, prompts: Sequence[str]) -> Tensors:
        """Encode prompts as the pipeline does to draw: "hidden" [prompts, tokens, width]."""
        encoded = self.pipeline._encode_prompt(list(prompts), 1, False)  # noqa: SLF001
        return {"hidden": self.pipeline.text_decoder.encode(encoded)}

    @override
    def encode_pictures(self, pixels: Tensor, mask: Tensor | None = None) -> Tensors:
        """Encode pixels to the VAE's mean and deviation, and to CLIP's embedding."""
        levels = ((pixels.transpose([0, 2, 3, 1]).numpy() + 1) * 127.5).round().astype(np.uint8)
        pictures = [Image.fromarray(each) for each in levels]
        clip = self.pipeline.encode_image_clip_latents(pictures, len(pictures), 1, pixels.dtype)
        return {**super().encode_pictures(pixels), "clip": clip}

    @override
    def latents(self, encoding: Tensors, noise: Tensor) -> Tensor:
        """Draw the VAE's latents, and put CLIP's embedding behind them: [n, values]."""
        latents = super().latents(encoding, noise)
        return self.pipeline._combine(latents, encoding["clip"].unsqueeze(1))  # noqa: SLF001

    @override
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        """Predict the noise of both parts, for pictures that a text without noise describes."""
        last = self.pipeline.scheduler.config.num_train_timesteps
        height, width = self.default_size
        return self.pipeline._get_noise_pred(  # noqa: SLF001
            "text2img", noisy, t, conditioning["hidden"], None, None, last, _OWN_DATA, 1.0, None, height, width
        )

    @override
    def scaled_for_loss(self, values: Tensor) -> Tensor:
        """Scale both parts so that the mean over a row is the sum of the mean over each."""
        total, clip = values.shape[1], self.pipeline.image_encoder_projection_dim
        parts = values.astype("float32").split([total - clip, clip], axis=1)
        return paddle.concat([part * math.sqrt(total / part.shape[1]) for part in parts], axis=1)

    @override
    def check_training(self, size: Size, gradient_checkpointing: bool) -> None:
        """Refuse other sizes than its own, since its transformer has an embedding for each place of a picture."""
        height, width = self.default_size
        for name, side, own in zip(("height", "width"), size, self.default_size):
            if side != own:
                raise BadInput(f"--{name} {side}: this model takes pictures of {width} x {height} only")
        if gradient_checkpointing:
            raise BadInput("--gradient_checkpointing: the library's UniDiffuser can't do it")

    @override
    def check_drawing(self, settings: DrawSettings) -> None:
        """Refuse a negative prompt, schedulers that need a scaled input, and other sizes than its own."""
        if settings.negative_prompt:
            raise BadInput(f"{settings.negative_flag}: a UniDiffuser takes none")
        if settings.scheduler and schedulers.SCHEDULERS[settings.scheduler].scales_input:
            able = ", ".join(name for name, facts in schedulers.SCHEDULERS.items() if not facts.scales_input)
            flag = f"{settings.scheduler_flag} {settings.scheduler}"
            raise BadInput(f"{flag}: a UniDiffuser can't draw with it; it can with {able}")
        if settings.size != self.default_size:
            (height, width), (own_height, own_width) = settings.size, self.default_size
            raise BadInput(f"--height {height}, --width {width}: this model draws {own_width} x {own_height} only")
        super().check_drawing(settings)

    @override
    def prompt_arguments(self, prompts: Sequence[str], negative: str | None, guided: bool) -> dict[str, Any]:
        """Name prompts as the pipeline takes them, which encodes them itself."""
        return {"prompt": list(prompts)}

    @override
    def first_latents(self, seed: int, purpose: str, keys: Sequence[Key], size: Size) -> dict[str, Tensor]:
        """Draw the noise of both parts of a picture."""
        [latents] = super().first_latents(seed, purpose, keys, size).values()
        shape = 1, self.pipeline.image_encoder_projection_dim
        return {
            "vae_latents": latents,
            "clip_latents": self._first_noise(seed, f"{purpose} embedding", keys, shape),
        }

    @override
    def finish_folder(self, folder: Path, save_format: SaveFormat) -> None:
        """Name the parts, and their classes, as diffusers does today, and write the text decoder's tied layer twice."""
        if save_format != "diffusers":
            return
        index = atomic.read_json(folder / moves.INDEX)
        for old, new in self.facts.newer_names.items():
            (folder / old).rename(folder / new)
            index[new] = index.pop(old)
        for part, value in index.items():
            if isinstance(value, list):
                index[part] = [value[0], _NEWER_CLASSES.get(value[1], value[1])]
        atomic.write_json(folder / moves.INDEX, index)
        for path in folder.glob("*tokenizer/tokenizer_config.json"):
            settings = atomic.read_json(path)
            name = _NEWER_CLASSES.get(settings["tokenizer_class"], "CLIPTokenizer")
            atomic.write_json(path, {**settings, "tokenizer_class": name})
        _write_output_layer(folder / "text_decoder/diffusion_pytorch_model.safetensors")


def _write_output_layer(path: Path) -> None:
    """Write the text decoder's last layer, which is its first one's matrix, a second time: diffusers reads both."""
    weights = dict(Reader(path))
    weights["transformer.lm_head.weight"] = weights["transformer.transformer.wte.weight"]
    safetensors.write(path, weights, {"format": "pt"})
