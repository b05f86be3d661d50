"""Examine the embedded model: the quality of its parts, and how well its drawings match their prompts.

python -m miniworld.examine                        # the figures of its card
python -m miniworld.examine --sheet base.png       # and drawings: a row for each class, a column for each scene
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreambooth.config.parser import Parser
from dreambooth.drawing import sheets
from dreambooth.drawing.instruments.clip import Clip
from dreambooth.files import atomic, weight_files
from dreambooth.models import loading
from dreambooth.system import console, libraries
from miniworld import judge, paths, world
from miniworld.things import Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paddle import Tensor
    from PIL import Image

    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Network
    from miniworld.detector import Detector

SEED = 1_000_000  # no network trained on its pictures


def figures_of_parts(vae: Network, clip: Clip, detector: Detector, count: int = 256) -> dict[str, float]:
    """Measure VAE, CLIP and detector on `count` pictures of the world and as many strangers, and on the subjects."""
    things = [world.thing(SEED, number) for number in range(count)]
    pictures = _draw_by_renderer(things)
    kinds, scenes = [look.kind for look, _ in things], [scene for _, scene in things]
    class_prompts = [f"a photo of a {kind}" for kind in world.CLASSES]
    found_kinds = [world.CLASSES[index] for index in judge.classify(clip, pictures, class_prompts)]
    strangers = [world.stranger(SEED, number) for number in range(count)]
    stranger_pictures = _draw_by_renderer(strangers)
    named_right = detector.has_all_parts_right(stranger_pictures, [look for look, _ in strangers])
    subjects = [kind for kind in world.SUBJECTS for _ in world.SCENES]
    photographs = [world.photograph(kind, scene, SEED, 0) for kind in world.SUBJECTS for scene in world.SCENES]
    reconstructions = _reconstructed_pictures(vae, photographs)
    return {
        "VAE: world's pictures, dB": _psnr(vae, pictures),
        "VAE: subjects' pictures, dB": _psnr(vae, photographs),
        "CLIP: class right": judge.accuracy(found_kinds, kinds),
        "CLIP: scene right": judge.accuracy(judge.classify_scenes(clip, pictures, kinds), scenes),
        "detector: all parts of a stranger right": float(np.mean(named_right)),
        "detector: subjects found": _share_found(detector, photographs, subjects),
        "detector: subjects found after the VAE": _share_found(detector, reconstructions, subjects),
        "detector: strangers taken for a subject": _share_mistaken(detector, stranger_pictures),
    }


def figures_of_drawings(
    pictures: Sequence[Image.Image], things: Sequence[tuple[Look, str]], clip: Clip, detector: Detector
) -> dict[str, float]:
    """Measure how often drawings show the looks and the scenes of their prompts."""
    looks, scenes = [look for look, _ in things], [scene for _, scene in things]
    kinds = [look.kind for look in looks]
    parts = detector.name_parts(pictures)
    return {
        "drawn: class right": judge.accuracy([each["kind"] for each in parts], kinds),
        "drawn: colour right": judge.accuracy([each["colour"] for each in parts], [look.colour for look in looks]),
        "drawn: pattern right": judge.accuracy([each["pattern"] for each in parts], [look.pattern for look in looks]),
        "drawn: scene right": judge.accuracy(judge.classify_scenes(clip, pictures, kinds), scenes),
    }


def draw(family: Family, things: Sequence[tuple[Look, str]]) -> list[Image.Image]:
    """Draw each thing in its scene from a prompt that names class, colour, pattern and scene."""
    prompts = []
    for look, scene in things:
        words = " ".join(filter(None, (look.pattern, look.colour, look.kind)))
        prompts.append(f"a photo of {world.article(words)} {words} {scene}")
    return judge.draw(family, [(prompt, number) for number, prompt in enumerate(prompts)])


def each_class_in_each_scene() -> list[tuple[Look, str]]:
    """Return one thing of each class in each scene, in various colours and patterns."""
    patterns = (None, None, "spotted", None, "striped")
    things = []
    for row, kind in enumerate(world.CLASSES):
        for column, scene in enumerate(world.SCENES):
            colour = world.COLOURS[(3 * row + column) % len(world.COLOURS)]
            things.append((Look(kind, colour, patterns[(row + column) % len(patterns)]), scene))
    return things


def _draw_by_renderer(things: Sequence[tuple[Look, str]]) -> list[Image.Image]:
    return [world.picture(*thing, SEED, number) for number, thing in enumerate(things)]


def _reconstruct(vae: Network, pictures: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """Return pictures and their reconstructions by the VAE, both [n, 3, 64, 64] in about -1 .. 1."""
    import paddle

    from miniworld import training

    pixels = training.scale_pixels(np.stack([np.asarray(picture) for picture in pictures]))
    with paddle.no_grad():
        return pixels, vae.decode(vae.encode(pixels).latent_dist.mean).sample


def _psnr(vae: Network, pictures: Sequence[Image.Image]) -> float:
    """Return the peak signal-to-noise ratio of the VAE's reconstructions, in dB."""
    import paddle

    pixels, reconstructions = _reconstruct(vae, pictures)
    return float(10 * paddle.log10(4 / (reconstructions.clip(-1, 1) - pixels).square().mean()))


def _reconstructed_pictures(vae: Network, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    from PIL import Image

    _, reconstructions = _reconstruct(vae, pictures)
    rows = ((reconstructions.numpy().transpose(0, 2, 3, 1) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return [Image.fromarray(row) for row in rows]


def _share_found(detector: Detector, pictures: Sequence[Image.Image], kinds: Sequence[str]) -> float:
    """Return the share of pictures in which the detector finds their subject."""
    found = [
        detector.subject_probabilities([picture], world.SUBJECTS[kind])[0] > 0.5
        for picture, kind in zip(pictures, kinds)
    ]
    return float(np.mean(found))


def _share_mistaken(detector: Detector, pictures: Sequence[Image.Image]) -> float:
    """Return the share of pictures that the detector takes for a subject, mean over the subjects."""
    shares = [(detector.subject_probabilities(pictures, look) > 0.5).mean() for look in world.SUBJECTS.values()]
    return float(np.mean(shares))


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m miniworld.examine", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=paths.FOLDER, metavar="TEXT", help="folder of the model (default: miniworld)"
    )
    parser.add_argument("--sheet", metavar="FILE.png", help="file for the drawings")
    arguments = parser.parse_args(argv)
    libraries.load(weight_files.READERS)
    from miniworld.detector import Detector

    family = loading.load_family(loading.Source(str(arguments.folder / "model")))
    clip = Clip(str(arguments.folder / "clip"))
    detector = Detector.load(arguments.folder / "detector.safetensors")
    things = each_class_in_each_scene()
    pictures = draw(family, things)
    figures = figures_of_parts(family.pipeline.vae, clip, detector)
    figures |= figures_of_drawings(pictures, things, clip, detector)
    for name, value in figures.items():
        print(f"{name:<45}{value:8.3f}")
    if arguments.sheet:
        atomic.write_picture(Path(arguments.sheet), sheets.make_grid(pictures, columns=len(world.SCENES)))


if __name__ == "__main__":
    console.run_command(main)
