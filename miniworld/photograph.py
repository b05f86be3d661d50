"""Photograph one of the world's subjects: pictures to train on, or others to measure with.

    python -m miniworld.photograph --subject cat --output my_cat                   # five, in five scenes
    python -m miniworld.photograph --subject cat --output measured --measuring     # others, in the other scenes

For measuring it also writes prompts.txt, as `python -m dreambooth.metrics --prompts_file` reads it.
"""

from pathlib import Path

from dreambooth.config.parser import Parser
from dreambooth.files import atomic
from dreambooth.system import console
from dreambooth.system.errors import BadInput
from miniworld import world

PROMPTS = "prompts.txt"
FIRST_MEASURED = 100  # numbers from here on are not trained on


def training_pictures(subject, folder, seed=0, size=64):
    """Write one picture in each of the scenes that are photographed."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for scene in world.SEEN:
        world.photograph(subject, scene, seed, 0, size).save(folder / f"{slug(scene)}.png", optimize=True)


def measuring_pictures(subject, folder, identifier="sks", seed=0, count=4, scenes=world.UNSEEN, size=64):
    """Write pictures of other scenes, and the prompts that name them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for scene in scenes:
        for earlier in folder.glob(f"{slug(scene)}-*.png"):
            earlier.unlink()  # there may have been more of them
        for number in range(count):
            picture = world.photograph(subject, scene, seed, FIRST_MEASURED + number, size)
            picture.save(folder / f"{slug(scene)}-{number}.png", optimize=True)
        lines.append(f"a photo of {identifier} {subject} {scene}\t{slug(scene)}-*.png\n")
    (folder / PROMPTS).write_text("".join(lines), encoding="utf-8")


def slug(scene):
    return scene.replace(" ", "-")


def main(argv):
    parser = Parser(prog="python -m miniworld.photograph", description=__doc__)
    add = parser.add_argument
    add("--subject", choices=world.SUBJECTS, required=True, help="which of them")
    add("--output", required=True, metavar="TEXT", help="folder for the pictures")
    add(
        "--measuring",
        action="store_true",
        help="other pictures, of the scenes that are not trained on, and prompts.txt",
    )
    add("--count", type=int, default=4, metavar="N", help="with --measuring: pictures of each scene (default: 4)")
    add("--identifier", default="sks", metavar="TEXT", help="with --measuring: the rare word (default: sks)")
    add("--size", type=int, default=64, metavar="N", help="side in pixels (default: 64)")
    add("--seed", type=int, default=0, metavar="N", help="what the pictures are a function of (default: 0)")
    arguments = parser.parse_args(argv)
    for name in ("count", "size"):
        if getattr(arguments, name) < 1:
            raise BadInput(f"--{name} {getattr(arguments, name)}: must be at least 1")
    if arguments.seed < 0:
        raise BadInput(f"--seed {arguments.seed}: must be at least 0")
    if not atomic.can_be_written(Path(arguments.output)):
        raise BadInput(f"--output {arguments.output}: it is no folder that can be written")
    common = dict(seed=arguments.seed, size=arguments.size)
    if arguments.measuring:
        measuring_pictures(arguments.subject, arguments.output, arguments.identifier, count=arguments.count, **common)
    else:
        training_pictures(arguments.subject, arguments.output, **common)
    print(arguments.output)


if __name__ == "__main__":
    console.run_command(main)
