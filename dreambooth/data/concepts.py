"""The subjects, the pictures that show them, and the examples that a training step takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from dreambooth.system.types import Box, Key, Size


@dataclass(frozen=True)
class Picture:
    """A picture file that can be read."""

    path: Path
    size: Size  # after EXIF rotation
    sha256: str
    caption: str | None = None  # its own prompt; None: the concept's
    mask: Path | None = None  # whose white places count; its own path where its transparency is the mask

    @property
    def record(self) -> dict[str, str]:
        """What a run's record has of it."""
        own = {"caption": self.caption} if self.caption is not None else {}
        return {"name": self.path.name, "sha256": self.sha256, **own}


@dataclass(frozen=True)
class Concept:
    """A subject, and the class that it belongs to."""

    prompt: str
    pictures: tuple[Picture, ...]
    class_prompt: str | None = None
    class_pictures: tuple[Picture, ...] = ()  # which another subject of the class may have too
    weight: float = 1.0  # of its examples among those of all subjects


class View(NamedTuple):
    """The size, crop, flip and colours of a picture for the network."""

    original: Size
    size: Size
    crop: Box | None = None  # the part that is scaled to `size`; None: the whole picture
    flip: bool = False  # whether it is mirrored
    inside: Box | None = None  # where in `size` it lies, before a flip, in whole pixels; None: everywhere
    colours: tuple[float, ...] = ()  # factors of its brightness, contrast and saturation; none: as they are


class Example(NamedTuple):
    """One picture with its prompt, as an update takes it."""

    key: Key
    picture: int  # its index among Batches.pictures
    prompt: int  # its index among Batches.prompts
    view: View


Share: TypeAlias = tuple[int, int]  # (number of a worker, number of workers)


@dataclass(frozen=True)
class MicroBatch:
    """The examples that go through the network at once; the last `prior` of them show the class."""

    examples: tuple[Example, ...]
    prior: int = 0
    # the shares of a whole micro-batch's examples of the subject, and of the class, where this is a part of one
    shares: tuple[float, float] = (1.0, 1.0)

    def part(self, share: Share) -> MicroBatch:
        """Return the examples of one worker of several."""
        number, workers = share
        if workers == 1:
            return self
        count, subject = len(self.examples), len(self.examples) - self.prior
        first, end = number * count // workers, (number + 1) * count // workers
        prior = end - max(first, min(end, subject))
        shares = (end - first - prior) / max(1, subject), prior / max(1, self.prior)
        return MicroBatch(self.examples[first:end], prior, shares)

    @property
    def size(self) -> Size:
        """The size that all examples have."""
        return self.examples[0].view.size

    @property
    def keys(self) -> list[Key]:
        """The keys of the examples' random numbers."""
        return [example.key for example in self.examples]

    @property
    def prompts(self) -> list[int]:
        """The distinct prompts of the examples, in ascending order."""
        return sorted({example.prompt for example in self.examples})
