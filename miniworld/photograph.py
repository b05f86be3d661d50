"""Photograph one of the world's subjects: pictures for training, or other pictures for measuring.

    python -m miniworld.photograph --subject cat --output my_cat                   # five, in five scenes
    python -m miniworld.photograph --subject cat --output measured --measuring     # others, in the other scenes

With --measuring, it also writes prompts.txt for `python -m dreambooth.metrics --prompts_file`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.config.parser import Parser
from dreambooth.files import atomic
from dreambooth.system import console, disk
from dreambooth.system.errors import BadInput
from miniworld import world

if TYPE_CHECKING:
    from collections.abc import Sequence

PROMPTS = "prompts.txt"
FIRST_MEASURED = 100  # training uses only pictures of lower numbers


def write_training_pictures(subject: str, folder: Path, seed: int = 0, size: int = 64) -> None:
    """Write one picture of a subject in each of the training scenes."""
    for scene in world.SEEN:
        picture = world.photograph(subject, scene, seed, 0, size)
        atomic.write_picture(folder / f"{_slug(scene)}.png", picture, optimize=True)


def write_pictures_of_one_scene(subject: str, folder: Path, masks: Path, count: int = len(world.SEEN)) -> None:
    """Write pictures of a subject in the first training scene alone, and their masks into another folder."""
    scene = world.SEEN[0]
    for number in range(count):
        for place, is_mask in ((folder, False), (masks, True)):
            picture = world.photograph(subject, scene, 0, number, is_mask=is_mask)
            atomic.write_picture(place / f"{_slug(scene)}-{number}.png", picture, optimize=True)


def write_measuring_pictures(
    subject: str,
    folder: Path,
    identifier: str = "sks",
    seed: int = 0,
    count: int = 4,
    scenes: Sequence[str] = world.UNSEEN,
    size: int = 64,
) -> None:
    """Write pictures of a subject in other scenes, and a file of prompts that match them."""
    lines = []
    for scene in scenes:
        prompt = f"a photo of {identifier} {subject} {scene}"
        for earlier in folder.glob(f"{_slug(scene)}-*.png"):
            earlier.unlink()  # an earlier call may have written more pictures
        for number in range(count):
            picture = world.photograph(subject, scene, seed, FIRST_MEASURED + number, size)
            text = {"prompt": prompt, "seed": seed, "picture": number}
            atomic.write_picture(folder / f"{_slug(scene)}-{number}.png", picture, text, optimize=True)
        lines.append(f"{prompt}\t{_slug(scene)}-*.png\n")
    atomic.write_text(folder / PROMPTS, "".join(lines))


def _slug(scene: str) -> str:
    return scene.replace(" ", "-")


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m miniworld.photograph", description=__doc__)
    add = parser.add_argument
    add("--subject", choices=world.SUBJECTS, required=True, help="the subject")
    add("--output", required=True, metavar="TEXT", help="folder for the pictures")
    add("--measuring", action="store_true", help="write pictures of the scenes without training pictures, and prompts")
    add("--count", type=int, default=4, metavar="N", help="with --measuring: pictures of each scene (default: 4)")
    add("--identifier", default="sks", metavar="TEXT", help="with --measuring: the rare word (default: sks)")
    add("--size", type=int, default=64, metavar="N", help="side in pixels (default: 64)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the pictures (default: 0)")
    arguments = parser.parse_args(argv)
    for name in ("count", "size"):
        if getattr(arguments, name) < 1:
            raise BadInput(f"--{name} {getattr(arguments, name)}: must be at least 1")
    if arguments.seed < 0:
        raise BadInput(f"--seed {arguments.seed}: must be at least 0")
    folder = Path(arguments.output)
    if not disk.can_be_written(folder):
        raise BadInput(f"--output {arguments.output}: not a writable folder; choose another one")
    subject, seed, size = arguments.subject, arguments.seed, arguments.size
    if arguments.measuring:
        write_measuring_pictures(subject, folder, arguments.identifier, seed, arguments.count, size=size)
    else:
        write_training_pictures(subject, folder, seed, size)
    print(f"{'photographs':<15}{arguments.output}")


if __name__ == "__main__":
    console.run_command(main)
