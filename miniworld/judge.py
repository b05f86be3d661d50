"""Drawing with a model, and naming the contents of its pictures: shared by the study and the examination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreambooth.config.commands import DrawSettings
from dreambooth.drawing import sampling
from dreambooth.system import console
from miniworld import world

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from dreambooth.drawing.instruments.clip import Clip
    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Array

STEPS = 25


def draw(
    family: Family, requests: Sequence[tuple[str, int]], seed: int = 0, guidance: float = DrawSettings.guidance
) -> list[Image.Image]:
    """Draw a picture for each (prompt, number)."""
    settings = DrawSettings(seed, "picture", family.default_size, STEPS, guidance, scheduler="dpmsolver++")
    pictures = sampling.draw(family, settings, requests)
    return list(console.progress_bar(pictures, total=len(requests), desc="Drawing"))


def classify(clip: Clip, pictures: Sequence[Image.Image], texts: Sequence[str]) -> Array:
    """Return the index [n] of the text that CLIP finds most similar to each picture."""
    return (clip.encode_pictures(pictures) @ clip.encode_prompts(texts).T).argmax(1)


def classify_scenes(clip: Clip, pictures: Sequence[Image.Image], kinds: Sequence[str]) -> list[str]:
    """Return the scene that CLIP finds in each picture; the class of each picture's thing is known."""
    vectors = clip.encode_pictures(pictures)
    texts = {
        kind: clip.encode_prompts([f"a photo of {world.article(kind)} {kind} {scene}" for scene in world.SCENES])
        for kind in set(kinds)
    }
    return [world.SCENES[(row @ texts[kind].T).argmax()] for row, kind in zip(vectors, kinds)]


def accuracy(found: Sequence[object], expected: Sequence[object]) -> float:
    """Return the share of equal elements of two sequences; a difference in length is a ValueError."""
    return float(np.mean([a == b for a, b in zip(found, expected, strict=True)]))
