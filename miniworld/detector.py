"""The detector: a small network that names each part of a look, whatever the scene.

CLIP's similarity of two pictures depends mostly on the scene. This network trains on drawings with marks and hats of
all colours, so it can find a given subject.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import paddle
from paddle import nn

from dreambooth.files import safetensors
from miniworld import paths, things, world

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from paddle import Tensor
    from PIL import Image

    from dreambooth.system.types import Array
    from miniworld.things import Look

COLOURS = tuple(things.COLOURS)
# part of a look -> its possible answers
HEADS: dict[str, tuple[str | None, ...]] = {
    "kind": world.CLASSES,
    "colour": COLOURS,
    "pattern": (None, *world.PATTERNS),
    "mark": (None, *things.MARKS),
    "mark colour": COLOURS,
    "hat": (None, "hat"),
    "hat colour": COLOURS,
    "second hat colour": COLOURS,
}


def answers_of(look: Look) -> dict[str, str | None]:
    """Return the right answer of each head; the colour heads of an absent mark or hat have none."""
    answers = {"kind": look.kind, "colour": look.colour, "pattern": look.pattern, "mark": None, "hat": None}
    if look.mark:
        answers["mark colour"], answers["mark"] = look.mark
    if look.hat:
        answers["hat"] = "hat"
        answers["hat colour"], answers["second hat colour"] = look.hat
    return answers


class Detector(nn.Layer):
    """Four convolutions, then one linear layer for all heads."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Layer] = []
        channels = 3
        for width in (32, 64, 96, 128):
            layers += [nn.Conv2D(channels, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.Silu()]
            channels = width
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, 192), nn.Silu())
        self.heads = nn.Linear(192, sum(map(len, HEADS.values())))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return each head's logits [n, answers] for pixels [n, 3, 64, 64] in -1 .. 1."""
        logits = self.heads(self.body(pixels))
        return dict(zip(HEADS, logits.split([len(answers) for answers in HEADS.values()], axis=1)))

    def loss(self, pixels: Tensor, looks: Sequence[Look]) -> tuple[Tensor, Tensor]:
        """Return the sum of the heads' cross entropies, and the mean of their accuracies.

        A head counts only the pictures for which it has a right answer.
        """
        total, accuracies = paddle.zeros([]), []
        expected = [answers_of(look) for look in looks]
        for head, logits in self(pixels).items():
            rows = [row for row, answers in enumerate(expected) if head in answers]
            if rows:
                labels = paddle.to_tensor([HEADS[head].index(expected[row][head]) for row in rows])
                chosen = logits[paddle.to_tensor(rows)]
                total = total + nn.functional.cross_entropy(chosen, labels)
                accuracies.append((chosen.argmax(1) == labels).astype("float32").mean())
        return total, sum(accuracies) / len(accuracies)

    def save(self, path: Path = paths.DETECTOR) -> None:
        """Write the weights in half precision."""
        safetensors.write(path, {name: each.numpy().astype(np.float16) for name, each in self.state_dict().items()})

    @classmethod
    def load(cls, path: Path = paths.DETECTOR) -> Detector:
        """Read a detector, in float32 and ready to detect."""
        detector = cls()
        detector.set_state_dict({name: each.astype(np.float32) for name, each in safetensors.Reader(path).items()})
        detector.eval()
        return detector

    @paddle.no_grad()
    def probabilities(self, pictures: Sequence[Image.Image]) -> dict[str, Array]:
        """Return each head's probabilities [n, answers]."""
        pixels = np.stack([np.asarray(picture.convert("RGB").resize((64, 64))) for picture in pictures])
        scaled = paddle.to_tensor(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
        return {head: nn.functional.softmax(logits, axis=1).numpy() for head, logits in self(scaled).items()}

    def subject_probabilities(self, pictures: Sequence[Image.Image], look: Look) -> Array:
        """Return the probability [n] that each picture shows a subject: its class, its colour, a mark and a hat.

        Any mark and any hat count, because nothing else in the world has one.
        """
        found = self.probabilities(pictures)
        factors = [found[head][:, HEADS[head].index(getattr(look, head))] for head in ("kind", "colour")]
        factors += [1 - found[head][:, HEADS[head].index(None)] for head in ("mark", "hat")]
        return np.prod(factors, axis=0)

    def name_parts(self, pictures: Sequence[Image.Image]) -> list[dict[str, str | None]]:
        """Return the most probable answer of each head, for each picture."""
        found = self.probabilities(pictures)
        return [{head: HEADS[head][found[head][row].argmax()] for head in HEADS} for row in range(len(pictures))]

    def has_all_parts_right(self, pictures: Sequence[Image.Image], looks: Sequence[Look]) -> list[bool]:
        """Return for each picture whether all heads give the answers of its look."""
        return [
            all(parts[head] == answer for head, answer in answers_of(look).items())
            for parts, look in zip(self.name_parts(pictures), looks)
        ]
