"""Enlarging pictures by a model that sees them small, with their prompts: DreamBooth's second stage."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from dreambooth.drawing import sampling
from dreambooth.drawing.inputs import painting, starts
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from PIL.Image import Image

    from dreambooth.config.commands import DrawSettings
    from dreambooth.drawing.sampling import Request
    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Size


def check(family: Family, name: str, flag: str = "--upscaler") -> None:
    """Refuse a model that does not enlarge."""
    if not family.facts.enlarges:
        raise BadInput(
            f"{flag} {name}: it is a model of {family.facts.pipeline}, which enlarges no pictures; give an upscaler"
        )


def fitting_size(family: Family, small: Size, height: int | None = None, width: int | None = None) -> Size:
    """Return the size of an enlarged picture: by the model's factor, with sides that its networks can take.

    Where one side is given, the other follows from it.
    """
    step = starts.step_of(family)
    scale = starts.scale_for(small, family.enlargement, height, width)
    sides = [max(step, int(side * scale / step) * step) for side in small]
    return height or sides[0], width or sides[1]


def enlarged(family: Family, settings: DrawSettings, drawn: Iterable[tuple[Image, Request]]) -> Iterator[Image]:
    """Check the settings, and return an iterator that enlarges each picture, drawn with its prompt and its number."""
    settings = dataclasses.replace(settings, purpose="enlarged picture", from_picture=True)
    family.check_drawing(dataclasses.replace(settings, size=fitting_size(family, settings.size)))
    return _enlarged(family, settings, drawn)


def _enlarged(family: Family, settings: DrawSettings, drawn: Iterable[tuple[Image, Request]]) -> Iterator[Image]:
    for picture, request in drawn:
        size = fitting_size(family, (picture.height, picture.width))
        start = starts.Start(starts.fitted(picture, painting.size_of_start(family, size)))
        yield from sampling.draw(family, dataclasses.replace(settings, size=size), [request], start)


def choose_size(family: Family, shown: Sequence[Image], height: int | None, width: int | None) -> Size:
    """Choose the size of drawings: as it is given, else of the shape of the first picture that is shown, if any."""
    if shown and family.facts.enlarges:
        return fitting_size(family, (shown[0].height, shown[0].width), height, width)
    usual = family.default_size
    if not shown:
        return height or usual[0], width or usual[1]
    return starts.fitting_size(shown[0], usual, starts.step_of(family), height, width)
