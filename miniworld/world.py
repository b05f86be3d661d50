"""The drawn world: its things, scenes, captions and subjects, each a function of a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth.data import randomness
from miniworld import draw, scenes, things
from miniworld.things import Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

CLASSES = tuple(things.CLASSES)
SCENES = tuple(scenes.SCENES)
COLOURS = ("black", "blue", "brown", "green", "grey", "orange", "pink", "red", "white", "yellow")
PATTERNS = ("spotted", "striped")


# the subjects that DreamBooth teaches; the world never shows them
SUBJECTS = {
    "dog": Look("dog", "purple", mark=("yellow", "star"), hat=("red", "white")),
    "cat": Look("cat", "turquoise", mark=("red", "heart"), hat=("yellow", "black")),
    "car": Look("car", "magenta", mark=("white", "bolt"), hat=("green", "yellow")),
    "bird": Look("bird", "lime", mark=("blue", "disc"), hat=("pink", "blue")),
}
# a second dog beside the first, to teach both at once
LOOKS = {**SUBJECTS, "other dog": Look("dog", "turquoise", mark=("white", "heart"), hat=("pink", "blue"))}
# the scenes of a subject's training pictures, and the others
SEEN = ("on the grass", "on the beach", "in the snow", "in the mountains", "in the city")
UNSEEN = tuple(scene for scene in SCENES if scene not in SEEN)


def thing(seed: int, number: int) -> tuple[Look, str]:
    """Return the look and the scene of the world's picture `number`."""
    stream = randomness.stream(seed, "thing", number)
    kind = CLASSES[stream.integers(len(CLASSES))]
    colour = COLOURS[stream.integers(len(COLOURS))]
    pattern = (None, None, *PATTERNS)[stream.integers(4)]
    return Look(kind, colour, pattern), SCENES[stream.integers(len(SCENES))]


def stranger(seed: int, number: int, like_subjects: bool = False) -> tuple[Look, str]:
    """Return the look and the scene of a thing outside the world: of any colour, with or without a mark and a hat.

    It has the class and the colour of a subject only with `like_subjects`.
    """
    stream = randomness.stream(seed, "stranger", number)
    colours = tuple(things.COLOURS)

    def choice(options: Sequence[str]) -> str:
        return options[stream.integers(len(options))]

    kind = choice(CLASSES)
    taken = SUBJECTS[kind].colour if kind in SUBJECTS and not like_subjects else None
    look = Look(
        kind,
        choice([colour for colour in colours if colour != taken]),
        (None, None, *PATTERNS)[stream.integers(4)],
        (choice(colours), choice(tuple(things.MARKS))) if stream.random() < 0.6 else None,
        (choice(colours), choice(colours)) if stream.random() < 0.6 else None,
    )
    return look, choice(SCENES)


def picture(look: Look, scene: str, seed: int, number: int, size: int = 64) -> Image.Image:
    """Draw picture `number` of a look in a scene."""
    return draw.draw(look, scene, randomness.stream(seed, "picture", number), size)


def photograph(kind: str, scene: str, seed: int, number: int, size: int = 64, is_mask: bool = False) -> Image.Image:
    """Draw picture `number` of a subject in a scene, or the picture's mask: white where the subject is."""
    stream = randomness.stream(seed, f"{kind} {scene}", number)
    return draw.draw(LOOKS[kind], scene, stream, size, is_mask)


def caption(look: Look, scene: str, seed: int, number: int) -> str:
    """Write a caption as a person might: it often omits colour, pattern, mark, hat or scene."""
    stream = randomness.stream(seed, "caption", number)
    words = []
    if look.pattern:
        words += [look.pattern] if stream.random() < 0.75 else []
    elif stream.random() < 0.25:
        words.append("plain")
    if stream.random() < 0.7:
        words.append(look.colour)
    words.append(look.kind)
    start = ("a photo of ", "a photo of ", "a photo of ", "a picture of ", "")[stream.integers(5)]
    where = f" {scene}" if stream.random() < 0.75 else ""
    details = []
    if look.mark and stream.random() < 0.8:
        details.append(f"{article(look.mark[0])} {' '.join(look.mark)}")
    if look.hat and stream.random() < 0.8:
        colours = " and ".join(dict.fromkeys(look.hat))
        details.append(f"{article(colours)} {colours} hat")
    worn = f" with {' and '.join(details)}" if details else ""
    return f"{start}{article(words[0])} {' '.join(words)}{worn}{where}"


def article(word: str) -> str:
    """Return the indefinite article of a word."""
    return "an" if word[0] in "aeiou" else "a"
