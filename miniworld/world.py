"""What the world holds: looks, scenes, captions and subjects, each a function of a seed."""

from dataclasses import dataclass
from typing import Optional

from dreambooth.system import randomness
from miniworld import draw, scenes, things

CLASSES = tuple(things.CLASSES)
SCENES = tuple(scenes.SCENES)
COLOURS = ("black", "blue", "brown", "green", "grey", "orange", "pink", "red", "white", "yellow")
PATTERNS = ("spotted", "striped")


@dataclass(frozen=True)
class Look:
    """How a thing looks. The world's own things have neither a mark nor a hat."""

    kind: str
    colour: str
    pattern: Optional[str] = None
    mark: Optional[tuple] = None  # (colour, shape)
    hat: Optional[tuple] = None  # two colours


# what the world never shows, and DreamBooth is to teach
SUBJECTS = {
    "dog": Look("dog", "purple", mark=("yellow", "star"), hat=("red", "white")),
    "cat": Look("cat", "turquoise", mark=("red", "heart"), hat=("yellow", "black")),
    "car": Look("car", "magenta", mark=("white", "bolt"), hat=("green", "yellow")),
    "bird": Look("bird", "lime", mark=("blue", "disc"), hat=("pink", "blue")),
}
# where the subject is photographed, and where it is drawn later
SEEN = ("on the grass", "on the beach", "in the snow", "in the mountains", "in the city")
UNSEEN = tuple(scene for scene in SCENES if scene not in SEEN)


def sample(seed, number):
    """(look, scene) of the world's picture `number`."""
    stream = randomness.stream(seed, "thing", number)
    kind = CLASSES[stream.integers(len(CLASSES))]
    colour = COLOURS[stream.integers(len(COLOURS))]
    pattern = (None, None, *PATTERNS)[stream.integers(4)]
    return Look(kind, colour, pattern), SCENES[stream.integers(len(SCENES))]


def stranger(seed, number, like_subjects=False):
    """(look, scene) of something that is not of the world: any colour, with or without a mark and a hat. None has the
    class and the colour of a subject, unless that is asked for."""
    stream = randomness.stream(seed, "stranger", number)
    colours = tuple(things.COLOURS)

    def choice(options):
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


def picture(look, scene, seed, number, size=64):
    return draw.draw(look, scene, randomness.stream(seed, "picture", number), size)


def caption(look, scene, seed, number):
    """What a person might write below the picture: colour, pattern, mark, hat and scene are often left out."""
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


def article(word):
    return "an" if word[0] in "aeiou" else "a"


def photograph(kind, scene, seed, number, size=64):
    """Picture `number` of a subject in a scene."""
    stream = randomness.stream(seed, f"{kind} {scene}", number)
    return draw.draw(SUBJECTS[kind], scene, stream, size)
