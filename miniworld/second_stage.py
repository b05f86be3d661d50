"""Study the paper's second stage: an upscaler that has learned a subject's details, against one that has not.

    python -m miniworld.second_stage                            # all, in ./second-stage; resumes after a stop
    python -m miniworld.second_stage --subjects dog --seeds 0

Pictures of a subject, in scenes without training pictures, are reduced to 24 pixels a side. A mark is then three pixels
wide. They are enlarged to 96 pixels by a filter, by the embedded upscaler, and by the one that has learned the subject.

"mark right" and "hat right" are the shares of pictures with the subject's mark and hat, in their colours. "class gets a
mark or a hat" is the share of plain things of the class that have one after the class prompt enlarged them. "sharpness"
compares the edges with those of the original pictures. The filter adds none, and the detector finds a blurred mark too.

A sheet beside the results of each subject shows some of the pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dreambooth.config.commands import DrawSettings
from dreambooth.config.parser import Parser
from dreambooth.drawing import sheets
from dreambooth.drawing.inputs import enlarging
from dreambooth.files import atomic, moves, weight_files
from dreambooth.models import loading
from dreambooth.system import console, libraries
from miniworld import judge, paths, photograph, study, tables, world
from miniworld.things import Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniworld.detector import Detector
    from miniworld.evaluator import Figures

    Pictures = list[Image.Image]
    Requests = list[tuple[str, int]]  # prompts, and the numbers of their noise
    BySeed = dict[int, list[Figures]]

LARGE, SMALL = 96, 24  # pixels a side
COUNT = 8  # pictures of a scene
SHOWN = 3  # of them, on the sheet
PLAIN_SEED = 1_000_000  # no network trained on its pictures
TRAINING = {
    "resolution": LARGE,
    "train_batch_size": 3,
    "learning_rate": 4.5e-4,
    "max_train_steps": 400,
    "ema_decay": 0.98,
}
SHEET = "sheet.png"


def flags(subject: str, seed: int, result: Path) -> dict[str, object]:
    """Return the flags of a run, beside whose folder its pictures are written."""
    pictures = result.parent / f"pictures-{LARGE}"
    photograph.write_training_pictures(subject, pictures, size=LARGE)
    return {
        "pretrained_model_name_or_path": paths.UPSCALER,
        "instance_data_dir": pictures,
        "instance_prompt": f"a photo of sks {subject}",
        "output_dir": result,
        "seed": seed,
        "no_last_checkpoint": None,
        **TRAINING,
    }


def train(subject: str, seed: int, folder: Path) -> Path:
    """Teach the upscaler a subject, unless the result exists; return its folder."""
    result = folder / subject / f"upscaler-{LARGE}-{seed}"
    if not (result / moves.INDEX).exists():
        study.run(flags(subject, seed, result))
    return result


def draw_subject(subject: str) -> tuple[Pictures, Requests]:
    """Draw a subject in scenes without training pictures; return the pictures, and what enlarges each."""
    first = photograph.FIRST_MEASURED
    each = [(scene, number) for scene in world.UNSEEN for number in range(first, first + COUNT)]
    pictures = [world.photograph(subject, scene, 0, number, LARGE) for scene, number in each]
    return pictures, _number([f"a photo of sks {subject} {scene}" for scene, _ in each])


def draw_plain_things(kind: str) -> tuple[Pictures, Requests]:
    """Draw things of a class without mark and hat in the same scenes; return the pictures, and what enlarges each."""
    scenes = [scene for scene in world.UNSEEN for _ in range(COUNT)]
    looks = [Look(kind, world.COLOURS[number % len(world.COLOURS)]) for number in range(len(scenes))]
    things = enumerate(zip(looks, scenes))
    pictures = [world.picture(look, scene, PLAIN_SEED, number, LARGE) for number, (look, scene) in things]
    return pictures, _number([f"a photo of a {kind} {scene}" for scene in scenes])


def _number(prompts: Sequence[str]) -> Requests:
    return [(prompt, number) for number, prompt in enumerate(prompts)]


def reduce(pictures: Sequence[Image.Image]) -> Pictures:
    """Return pictures as a first stage might draw them."""
    return [picture.reduce(LARGE // SMALL) for picture in pictures]


def enlarge(model: Path | None, small: Pictures, requests: Requests) -> Pictures:
    """Enlarge small pictures by a model, or by a filter without one."""
    if model is None:
        return [picture.resize((LARGE, LARGE), Image.Resampling.BICUBIC) for picture in small]
    settings = DrawSettings(0, "picture", (SMALL, SMALL), judge.STEPS)
    family = loading.load_family(loading.Source(str(model)))
    return list(enlarging.enlarged(family, settings, zip(small, requests)))


def measure(detector: Detector, subject: str, enlarged: Pictures, plain: Pictures) -> Figures:
    """Measure enlarged pictures of a subject, and of plain things of its class."""
    original, look = draw_subject(subject)[0], world.LOOKS[subject]
    parts, of_plain = detector.name_parts(enlarged), detector.name_parts(plain)
    marks = [(each["mark colour"], each["mark"]) == look.mark for each in parts]
    hats = [bool(each["hat"]) and (each["hat colour"], each["second hat colour"]) == look.hat for each in parts]
    return {
        "mark right": float(np.mean(marks)),
        "hat right": float(np.mean(hats)),
        "all parts right": float(np.mean(detector.has_all_parts_right(enlarged, [look] * len(enlarged)))),
        "class gets a mark or a hat": float(np.mean([bool(each["mark"] or each["hat"]) for each in of_plain])),
        "sharpness": measure_edges(enlarged) / measure_edges(original),
    }


def measure_edges(pictures: Pictures) -> float:
    """Return the mean size of the pictures' second differences, across and down."""
    grey = np.stack([np.asarray(picture.convert("L"), dtype=np.float32) for picture in pictures])
    return float(np.mean([np.abs(np.diff(grey, 2, axis)).mean() for axis in (1, 2)]))


def measure_once(detector: Detector, model: Path | None, subject: str, folder: Path) -> Figures:
    """Measure a model, or the filter, unless a file in a folder has its figures."""
    path = folder / f"figures-{SMALL}-{LARGE}-{COUNT}.json"
    if not path.exists():
        pictures, plain = draw_subject(subject), draw_plain_things(world.LOOKS[subject].kind)
        enlarged = [enlarge(model, reduce(drawn), requests) for drawn, requests in (pictures, plain)]
        atomic.write_json(path, measure(detector, subject, *enlarged))
    return atomic.read_json(path)


def draw_sheet(subject: str, taught: Path) -> Image.Image:
    """Draw a sheet with the first pictures of each scene: small, enlarged by both upscalers, and as they are."""
    pictures, requests = draw_subject(subject)
    chosen = [number for number in range(len(pictures)) if number % COUNT < SHOWN]
    pictures, requests = [pictures[number] for number in chosen], [requests[number] for number in chosen]
    small = reduce(pictures)
    columns = {
        f"{SMALL} x {SMALL}": [picture.resize((LARGE, LARGE), Image.Resampling.NEAREST) for picture in small],
        "enlarged by the embedded upscaler": enlarge(paths.UPSCALER, small, requests),
        "by the taught one": enlarge(taught, small, requests),
        "the subject": pictures,
    }
    rows = {
        heading: [each[first : first + SHOWN] for first in range(0, len(each), SHOWN)]
        for heading, each in columns.items()
    }
    return sheets.make_contact_sheet([prompt for prompt, _ in requests[::SHOWN]], rows, SHOWN)


def study_subject(detector: Detector, subject: str, seeds: Sequence[int], folder: Path) -> dict[str, BySeed]:
    """Return the figures of each way to enlarge a subject's pictures; write its sheet."""
    taught = {seed: train(subject, seed, folder.parent) for seed in seeds}
    if not (folder / SHEET).exists():
        atomic.write_picture(folder / SHEET, draw_sheet(subject, taught[seeds[0]]))
    pictures, plain = draw_subject(subject)[0], draw_plain_things(world.LOOKS[subject].kind)[0]
    return {
        "a filter": {0: [measure_once(detector, None, subject, folder / "filter")]},
        "the embedded upscaler": {0: [measure_once(detector, paths.UPSCALER, subject, folder / "embedded")]},
        "taught": {seed: [measure_once(detector, model, subject, model)] for seed, model in taught.items()},
        "the original pictures": {0: [measure(detector, subject, pictures, plain)]},
    }


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m miniworld.second_stage", description=__doc__)
    study.add_runs(parser)
    folder = Path("second-stage")
    parser.add_argument(
        "--folder", type=Path, default=folder, metavar="TEXT", help=f"for the results (default: {folder})"
    )
    arguments = parser.parse_args(argv)
    libraries.load(weight_files.READERS)
    from miniworld.detector import Detector

    detector = Detector.load()
    rows: dict[str, BySeed] = {}
    for subject in arguments.subjects:
        found = study_subject(detector, subject, arguments.seeds, arguments.folder / subject)
        for name, by_seed in found.items():
            rows[f"{subject}: {name}"] = by_seed
            for seed, figures in by_seed.items():
                rows.setdefault(f"all: {name}", {}).setdefault(seed, []).extend(figures)
    order = sorted(rows, key=lambda name: name.startswith("all: "))  # the means over the subjects last
    print(tables.table_of_rows({name: tables.values_of(rows[name]) for name in order}))
    for subject in arguments.subjects:
        print(f"sheet          {arguments.folder / subject / SHEET}")


if __name__ == "__main__":
    console.run_command(main)
