"""Measure the time of a class picture, over that of the plain pipeline with its own scheduler and 50 steps.

For the embedded model, it also measures the pictures by the embedded CLIP: CLIP-T and DIV.

    python -m benchmarks.prior
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks import subjects
from dreambooth.config import parser as config_parser
from dreambooth.config.commands import DrawSettings
from dreambooth.drawing import measures, sampling
from dreambooth.drawing.instruments.clip import Clip
from dreambooth.files import weight_files
from dreambooth.models import loading
from dreambooth.system import console, libraries
from miniworld import paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from PIL import Image

    Groups = dict[str, list[Image.Image]]  # by class
    Timed = list[tuple[Image.Image, float]]  # pictures with their seconds

PROMPT = "a photo of a {}"
CLASSES = ("dog", "cat", "car", "house")
PLAIN_STEPS = 50


def measure_quality(groups: Groups) -> tuple[float | None, float | None]:
    """Return CLIP-T and DIV of the classes' pictures by the embedded CLIP, which fits only the embedded model."""
    clip = Clip(str(paths.CLIP), flag="CLIP")
    vectors = {name: clip.encode_pictures(pictures) for name, pictures in groups.items()}
    fits = [measures.mean_cosine(rows, clip.encode_prompts([PROMPT.format(name)])) for name, rows in vectors.items()]
    return measures.mean_of_known(fits), measures.diversity(vectors.values())


def draw_in_turn(drawings: Mapping[str, Iterator[Image.Image]], count: int) -> dict[str, Timed]:
    """Draw `count` pictures of each kind, in turn, and time each."""
    drawn: dict[str, Timed] = {name: [] for name in drawings}
    for _ in range(count):
        for name, drawing in drawings.items():
            start = time.perf_counter()
            picture = next(drawing)
            drawn[name].append((picture, time.perf_counter() - start))
    return drawn


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = subjects.make_parser("prior", __doc__)
    add = parser.add_argument
    add("--pictures", type=int, metavar="N", help="pictures of each of four classes (default: 24; full 1)")
    add("--prior_scheduler", metavar="TEXT", help="as for train_dreambooth.py (default: its default)")
    add("--prior_inference_steps", metavar="N", help="as for train_dreambooth.py (default: its default)")
    arguments = parser.parse_args(argv)
    subject = subjects.subject_of(arguments)
    count = arguments.pictures or (1 if subject.is_full else 24)
    solver = [f"--{name}={value}" for name, value in vars(arguments).items() if name.startswith("prior_") and value]
    config = config_parser.read_config(subjects.command_line(subject, "unused", 1, *solver), "")
    libraries.load(weight_files.READERS)
    family = loading.load_family(loading.Source(str(subject.folder)))
    plain = DrawSettings(0, "class picture", (subject.size, subject.size), PLAIN_STEPS)
    times: dict[str, list[float]] = {"plain": [], "fast": []}
    pictures: dict[str, Groups] = {"plain": {}, "fast": {}}
    for name in CLASSES:
        requests = [(PROMPT.format(name), number) for number in range(count)]
        drawings = {
            "plain": sampling.draw(family, plain, requests),
            "fast": sampling.draw(family, config.draw_settings("class picture"), requests),
        }
        for way, drawn in draw_in_turn(drawings, count).items():
            pictures[way][name] = [picture for picture, _ in drawn]
            times[way] += [seconds for _, seconds in drawn]
    ratio = subjects.median([fast / plain for fast, plain in zip(times["fast"], times["plain"])])
    scheduler, steps = config.drawing.prior_scheduler, config.drawing.prior_inference_steps
    labels = {
        "plain": (f"{type(family.pipeline.scheduler).__name__}, {PLAIN_STEPS} steps", "1.00"),
        "fast": (f"--prior_scheduler {scheduler}, {steps} steps", f"{ratio:.2f}"),
    }
    rows = []
    for way, (label, over_plain) in labels.items():
        quality = measure_quality(pictures[way]) if subject.name == "mini" else ()
        rows.append([label, f"{subjects.median(times[way]):.3f}", over_plain])
        rows[-1] += [f"{figure:.3f}" for figure in quality] or ["", ""]
    print(subjects.table(["", "seconds a picture", "ratio", "CLIP-T", "DIV"], rows))


if __name__ == "__main__":
    console.run_command(main)
