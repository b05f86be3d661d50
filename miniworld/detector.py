"""Tells what a picture shows: class, colour, pattern, mark and hat; and so, whether it shows a given subject.

CLIP answers how alike two pictures are, and is ruled by the scene. This small network was trained on the renderer, with
marks and hats of all colours, to name each part of a look whatever is around it.
"""

import numpy as np
import paddle
from paddle import nn
from safetensors.numpy import load_file, save_file

from miniworld import DETECTOR, things, world

COLOURS = tuple(things.COLOURS)
# what is told of a picture -> the answers that there are
HEADS = {
    "kind": world.CLASSES,
    "colour": COLOURS,
    "pattern": (None, *world.PATTERNS),
    "mark": (None, *things.MARKS),
    "mark colour": COLOURS,
    "hat": (None, "hat"),
    "hat colour": COLOURS,
    "second hat colour": COLOURS,
}


def truth(look):
    """{head: answer} of a look; the colours of what is not there are not asked for."""
    told = {"kind": look.kind, "colour": look.colour, "pattern": look.pattern, "mark": None, "hat": None}
    if look.mark:
        told["mark colour"], told["mark"] = look.mark
    if look.hat:
        told["hat"] = "hat"
        told["hat colour"], told["second hat colour"] = look.hat
    return told


class Detector(nn.Layer):
    """Four convolutions, then one answer for each head."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for width in (32, 64, 96, 128):
            layers += [nn.Conv2D(channels, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.Silu()]
            channels = width
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, 192), nn.Silu())
        self.heads = nn.Linear(192, sum(map(len, HEADS.values())))

    def forward(self, pixels):
        """{head: logits [n, answers]} of pixels [n, 3, 64, 64] in -1 .. 1."""
        answers = self.heads(self.body(pixels))
        return dict(zip(HEADS, answers.split([len(each) for each in HEADS.values()], axis=1)))

    def loss(self, pixels, looks):
        total, right = 0, []
        for head, logits in self(pixels).items():
            told = [truth(look) for look in looks]
            asked = [index for index, each in enumerate(told) if head in each]
            if asked:
                wanted = paddle.to_tensor([HEADS[head].index(told[index][head]) for index in asked])
                answers = logits[paddle.to_tensor(asked)]
                total = total + nn.functional.cross_entropy(answers, wanted)
                right.append((answers.argmax(1) == wanted).astype("float32").mean())
        return total, sum(right) / len(right)

    def save(self, path=DETECTOR):
        save_file({name: each.numpy().astype(np.float16) for name, each in self.state_dict().items()}, path)

    @classmethod
    def load(cls, path=DETECTOR):
        detector = cls()
        detector.set_state_dict({name: each.astype(np.float32) for name, each in load_file(path).items()})
        detector.eval()
        return detector

    @paddle.no_grad()
    def probabilities(self, pictures):
        """{head: probability of each answer [n, answers]}."""
        pixels = np.stack([np.asarray(picture.convert("RGB").resize((64, 64))) for picture in pictures])
        pixels = paddle.to_tensor(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
        return {head: nn.functional.softmax(logits, axis=1).numpy() for head, logits in self(pixels).items()}

    def shows(self, pictures, look):
        """How surely each picture shows this subject, [n]: its class in its colour, with a mark and with a hat. Which
        mark and which hat is not asked, since in this world nothing else has any."""
        found = self.probabilities(pictures)
        sure = [found[head][:, HEADS[head].index(getattr(look, head))] for head in ("kind", "colour")]
        sure += [1 - found[head][:, HEADS[head].index(None)] for head in ("mark", "hat")]
        return np.prod(sure, axis=0)

    def tell(self, pictures):
        """{head: answer} of each picture."""
        found = self.probabilities(pictures)
        return [{head: HEADS[head][found[head][row].argmax()] for head in HEADS} for row in range(len(pictures))]

    def right(self, pictures, looks):
        """For each picture, whether all parts of its look are named right."""
        return [
            all(told[head] == answer for head, answer in truth(look).items())
            for told, look in zip(self.tell(pictures), looks)
        ]
