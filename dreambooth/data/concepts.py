"""What is to be learned: pictures and the prompts that go with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional


@dataclass(frozen=True)
class Picture:
    path: Path
    size: tuple  # (width, height) as seen, after EXIF rotation
    sha256: str


@dataclass(frozen=True)
class Concept:
    """One thing to learn, and the class of things that it belongs to."""

    prompt: str
    pictures: tuple
    class_prompt: Optional[str] = None
    class_pictures: tuple = ()
