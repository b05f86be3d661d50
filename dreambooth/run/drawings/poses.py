"""Drawings by several poses, which a ControlNet sees one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from PIL.Image import Image

    from dreambooth.models.family.control import Controlled


def draw(controlled: Controlled, poses: Sequence[Image], draw_once: Callable[[], Iterator[Image]]) -> Iterator[Image]:
    """Draw anew for each pose, which the ControlNet sees."""
    for pose in poses:
        controlled.show(pose)
        yield from draw_once()


def with_poses(pictures: Sequence[Image], poses: Sequence[Image], count: int) -> tuple[Sequence[Image], int]:
    """Return the pictures of a sheet, and how many are in a row: `count` of each prompt, or all of a pose behind it."""
    if not poses:
        return pictures, count
    each = len(pictures) // len(poses)
    poses = [pose.resize(pictures[0].size) for pose in poses]
    rows = [[pose, *pictures[number * each : (number + 1) * each]] for number, pose in enumerate(poses)]
    return sum(rows, []), 1 + each
