"""Examine the embedded model: how well its parts know the world, and how well it draws what a prompt names.

python -m miniworld.examine                        # the figures of its card
python -m miniworld.examine --sheet base.png       # and pictures: a row for each kind of thing, a column for each scene
"""

from pathlib import Path

import numpy as np

from dreambooth.config.parser import Parser
from dreambooth.drawing import sheets
from dreambooth.drawing.clip import Clip
from dreambooth.models import loading
from dreambooth.system import console, libraries
from miniworld import HERE, judge, world

SEED = 1_000_000  # nothing here was trained on


def psnr(vae, pictures):
    """Of pictures that went through the VAE and back, in dB."""
    import paddle

    from miniworld.training import pixels

    wanted = pixels(np.stack([np.asarray(picture) for picture in pictures]))
    with paddle.no_grad():
        got = vae.decode(vae.encode(wanted).latent_dist.mean).sample
        return float(10 * paddle.log10(4 / (got.clip(-1, 1) - wanted).square().mean()))


def world_pictures(count):
    things = [world.sample(SEED, number) for number in range(count)]
    return [world.picture(*thing, SEED, number) for number, thing in enumerate(things)], things


def figures_of_parts(pipeline, clip, detector, count=256):
    """How well VAE, CLIP and detector do on pictures of the world and of the subjects."""
    pictures, things = world_pictures(count)
    looks, scenes = zip(*things)
    subjects = [(kind, world.photograph(kind, scene, SEED, 0)) for kind in world.SUBJECTS for scene in world.SCENES]
    found = [
        world.CLASSES[index]
        for index in judge.named(clip, pictures, [f"a photo of a {kind}" for kind in world.CLASSES])
    ]
    strangers = [world.stranger(SEED, number) for number in range(count)]
    stranger_pictures = [world.picture(*thing, SEED, number) for number, thing in enumerate(strangers)]
    after = through(pipeline.vae, [picture for _, picture in subjects])
    return {
        "VAE: world's pictures, dB": psnr(pipeline.vae, pictures),
        "VAE: subjects' pictures, dB": psnr(pipeline.vae, [picture for _, picture in subjects]),
        "CLIP: class named right": judge.share_equal(found, [look.kind for look in looks]),
        "CLIP: scene named right": judge.share_equal(
            judge.scenes_named(clip, pictures, [look.kind for look in looks]), scenes
        ),
        "detector: looks named right in all parts": float(
            np.mean(detector.right(stranger_pictures, [look for look, _ in strangers]))
        ),
        "detector: subjects found": found_share(detector, subjects),
        "detector: subjects found after the VAE": found_share(
            detector, [(kind, each) for (kind, _), each in zip(subjects, after)]
        ),
        "detector: strangers taken for a subject": taken_share(detector, stranger_pictures),
    }


def found_share(detector, subjects):
    return float(np.mean([detector.shows([picture], world.SUBJECTS[kind])[0] > 0.5 for kind, picture in subjects]))


def taken_share(detector, pictures):
    return float(np.mean([(detector.shows(pictures, look) > 0.5).mean() for look in world.SUBJECTS.values()]))


def through(vae, pictures):
    """Pictures as they come out of the VAE."""
    import paddle
    from PIL import Image

    from miniworld.training import pixels

    with paddle.no_grad():
        got = vae.decode(vae.encode(pixels(np.stack([np.asarray(each) for each in pictures]))).latent_dist.mean).sample
    rows = ((got.numpy().transpose(0, 2, 3, 1) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return [Image.fromarray(row) for row in rows]


def draw(pipeline, looks_and_scenes):
    """A picture of each, from a prompt that names class, colour, pattern and scene."""
    prompts = []
    for look, scene in looks_and_scenes:
        words = " ".join(filter(None, (look.pattern, look.colour, look.kind)))
        prompts.append(f"a photo of {world.article(words)} {words} {scene}")
    return judge.draw(pipeline, [(prompt, number) for number, prompt in enumerate(prompts)])


def figures_of_drawings(pictures, looks_and_scenes, clip, detector):
    """Whether what was drawn is what was asked for."""
    looks, scenes = zip(*looks_and_scenes)
    told = detector.tell(pictures)
    return {
        "drawn: class right": judge.share_equal([each["kind"] for each in told], [look.kind for look in looks]),
        "drawn: colour right": judge.share_equal([each["colour"] for each in told], [look.colour for look in looks]),
        "drawn: pattern right": judge.share_equal([each["pattern"] for each in told], [look.pattern for look in looks]),
        "drawn: scene right": judge.share_equal(
            judge.scenes_named(clip, pictures, [look.kind for look in looks]), scenes
        ),
    }


def each_kind_in_each_scene():
    """One thing of each kind in each scene, in changing colours and patterns."""
    patterns = (None, None, "spotted", None, "striped")
    things = []
    for row, kind in enumerate(world.CLASSES):
        for column, scene in enumerate(world.SCENES):
            colour = world.COLOURS[(3 * row + column) % len(world.COLOURS)]
            things.append((world.Look(kind, colour, patterns[(row + column) % len(patterns)]), scene))
    return things


def main(argv):
    parser = Parser(prog="python -m miniworld.examine", description=__doc__)
    parser.add_argument("--folder", type=Path, default=HERE, metavar="TEXT", help="default: miniworld")
    parser.add_argument("--sheet", metavar="FILE.png", help="write the pictures there")
    arguments = parser.parse_args(argv)
    libraries.load()
    from miniworld.detector import Detector

    pipeline = loading.load_pipeline(str(arguments.folder / "model"))
    clip = Clip(str(arguments.folder / "clip"))
    detector = Detector.load(arguments.folder / "detector.safetensors")
    things = each_kind_in_each_scene()
    pictures = draw(pipeline, things)
    figures = {**figures_of_parts(pipeline, clip, detector), **figures_of_drawings(pictures, things, clip, detector)}
    for name, value in figures.items():
        print(f"{name:<45}{value:8.3f}")
    if arguments.sheet:
        sheets.make_grid(pictures, columns=len(world.SCENES)).save(arguments.sheet)


if __name__ == "__main__":
    console.run_command(main)
