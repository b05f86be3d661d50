"""A CLIP model as a measuring instrument: it encodes pictures and prompts as unit vectors to compare by cosine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreambooth.data import rare_words
from dreambooth.files import weight_files
from dreambooth.models import hub, layouts
from dreambooth.system.errors import BadInput
from dreambooth.system.patches import storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from dreambooth.system.types import Array

_LONGEST_REASON = 160  # characters of a library's message


def check_before_loading(name: str, flag: str) -> None:
    """Refuse what is neither a folder with a model's settings nor a name on the hub."""
    hub.check_place(name, flag)
    _check_settings(name, flag)


def _check_settings(name: str, flag: str) -> None:
    if Path(name).is_dir() and not (Path(name) / layouts.CONFIG).is_file():
        raise BadInput(f"{flag} {name}: no CLIP model, it has no {layouts.CONFIG}")


class Clip:
    """Both towers of a CLIP, loaded from a folder or a name on the hub."""

    def __init__(self, name: str, flag: str = "--clip_model_path") -> None:
        from ppdiffusers.transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        _check_settings(name, flag)
        try:
            for path in (Path(name) / file for file in {*layouts.PADDLE, *layouts.TORCH}):
                if path.is_file():
                    weight_files.check(path)
            with storage.all_weights_found():
                self.model = CLIPModel.from_pretrained(name, dtype="float32")
            self.tokenizer = CLIPTokenizer.from_pretrained(name)
            self.processor = CLIPImageProcessor.from_pretrained(name)
        except Exception as error:
            words = " ".join(str(error).split())
            cut = f"{words[:_LONGEST_REASON].strip()}…; --verbose shows it whole"
            reason = words if len(words) <= _LONGEST_REASON else cut
            raise BadInput(f"{flag} {name}: it can't be loaded as a CLIP model ({reason})") from error
        self.model.eval()
        self.length = self.model.config.text_config.max_position_embeddings

    def spells_out(self, text: str) -> bool:
        """Check whether the vocabulary has no Chinese characters for those of a text."""
        return rare_words.spells_out(self.tokenizer, text)

    def encode_pictures(self, pictures: Sequence[Image.Image], batch_size: int = 32) -> Array:
        """Return one unit vector for each picture: float32 [pictures, width]."""
        import paddle

        rows = []
        with paddle.no_grad():
            for first in range(0, len(pictures), batch_size):
                batch = self.processor(pictures[first : first + batch_size], return_tensors="pd").pixel_values
                rows.append(self.model.get_image_features(batch).numpy())
        return _normalize(np.concatenate(rows))

    def encode_prompts(self, prompts: Sequence[str]) -> Array:
        """Return one unit vector for each prompt: float32 [prompts, width]."""
        import paddle

        with paddle.no_grad():
            tokens = self.tokenizer(
                prompts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pd"
            )
            return _normalize(self.model.get_text_features(tokens.input_ids).numpy())


def _normalize(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
