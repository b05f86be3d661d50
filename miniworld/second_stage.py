"""Study the paper's second stage: an upscaler that has learned a subject's details, against one that has not.

    python -m miniworld.second_stage                            # all, in ./second-stage; resumes after a stop
    python -m miniworld.second_stage --subjects dog --seeds 0

A subject's pictures in scenes without training pictures are reduced to 24 pixels a side. There a mark is three pixels
wide, and what it is can hardly be seen; at 32 pixels it can, so nothing would be left to learn. Then they are enlarged
to 96 pixels by a filter, by the embedded upscaler, and by the one that has learned the subject. "mark right" and "hat
right" are the shares of pictures that have the subject's, with its colours. "class gets a mark or a hat" is the share
of plain things of the class that get one, when enlarged with the class prompt. "likeness" is the mean cosine of the
CLIP vectors of an enlarged picture and of the one that was reduced. "sharpness" is how strong its edges are beside
those of that one: a filter keeps what can be seen in the small picture, and adds no details.

A sheet beside the results of each subject shows some of them.
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
from dreambooth.drawing.instruments.clip import Clip
from dreambooth.files import atomic, moves, weight_files
from dreambooth.models import loading
from dreambooth.system import console, libraries
from miniworld import judge, paths, photograph, study, tables, world
from miniworld.detector import Detector
from miniworld.things import Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.models.family.base import Family
    from miniworld.evaluator import Figures

    Pictures = list[Image.Image]

LARGE, SMALL = 96, 24  # pixels a side
COUNT = 8  # pictures of a scene
SHOWN = 3  # of them, on the sheet
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
    pictures = result.parent / "pictures"
    if not pictures.is_dir():
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
    result = folder / subject / f"upscaler-{seed}"
    if not (result / moves.INDEX).exists():
        study.run(flags(subject, seed, result))
    return result


def subjects_pictures(subject: str) -> tuple[Pictures, list[str]]:
    """Return a subject's pictures in scenes without training pictures, and their prompts."""
    first = photograph.FIRST_MEASURED
    each = [(scene, number) for scene in world.UNSEEN for number in range(first, first + COUNT)]
    pictures = [world.photograph(subject, scene, 0, number, LARGE) for scene, number in each]
    return pictures, [f"a photo of sks {subject} {scene}" for scene, _ in each]


def plain_pictures(kind: str) -> tuple[Pictures, list[str]]:
    """Return pictures of plain things of a class in the same scenes, and their prompts."""
    each = [(scene, number) for scene in world.UNSEEN for number in range(COUNT)]
    looks = [Look(kind, world.COLOURS[index % len(world.COLOURS)]) for index in range(len(each))]
    pictures = [world.picture(look, scene, 0, number, LARGE) for look, (scene, number) in zip(looks, each)]
    return pictures, [f"a photo of a {kind} {scene}" for scene, _ in each]


def reduce(pictures: Sequence[Image.Image]) -> Pictures:
    """Return pictures as a first stage might draw them."""
    return [picture.reduce(LARGE // SMALL) for picture in pictures]


def enlarge(family: Family | None, small: Pictures, prompts: Sequence[str]) -> Pictures:
    """Enlarge small pictures by a model, or by a filter without one."""
    if family is None:
        return [picture.resize((LARGE, LARGE), Image.Resampling.BICUBIC) for picture in small]
    settings = DrawSettings(0, "picture", (SMALL, SMALL), judge.STEPS)
    requests = [(prompt, number) for number, prompt in enumerate(prompts)]
    return list(enlarging.enlarged(family, settings, zip(small, requests)))


class Judge:
    """The embedded detector and CLIP, and their figures of enlarged pictures."""

    def __init__(self) -> None:
        self._detector, self._clip = Detector.load(), Clip(str(paths.CLIP), flag="CLIP")

    def figures(self, subject: str, enlarged: Pictures, plain: Pictures) -> Figures:
        """Measure enlarged pictures of a subject, and of plain things of its class."""
        original, look = subjects_pictures(subject)[0], world.LOOKS[subject]
        cosines = (self._clip.encode_pictures(enlarged) * self._clip.encode_pictures(original)).sum(1)
        sharpness = edges(enlarged) / edges(original)
        return {
            **parts_right(self._detector, look, enlarged, plain),
            "likeness": float(cosines.mean()),
            "sharpness": sharpness,
        }


def edges(pictures: Pictures) -> float:
    """Return the mean size of the pictures' second differences, across and down."""
    grey = np.stack([np.asarray(picture.convert("L"), dtype=np.float32) for picture in pictures])
    return float(np.mean([np.abs(np.diff(grey, 2, axis)).mean() for axis in (1, 2)]))


def parts_right(detector: Detector, look: Look, pictures: Pictures, plain: Pictures) -> Figures:
    """Return the figures of the detector."""
    parts, of_plain = detector.name_parts(pictures), detector.name_parts(plain)
    marks = [(each["mark colour"], each["mark"]) == look.mark for each in parts]
    hats = [bool(each["hat"]) and (each["hat colour"], each["second hat colour"]) == look.hat for each in parts]
    return {
        "mark right": float(np.mean(marks)),
        "hat right": float(np.mean(hats)),
        "all parts right": float(np.mean(detector.has_all_parts_right(pictures, [look] * len(pictures)))),
        "class gets a mark or a hat": float(np.mean([bool(each["mark"] or each["hat"]) for each in of_plain])),
    }


def measure_once(judges: Judge, model: Path | None, subject: str, path: Path) -> Figures:
    """Measure a model, or the filter, unless a file has its figures."""
    if not path.exists():
        family = loading.load_family(loading.Source(str(model))) if model else None
        pictures, prompts = subjects_pictures(subject)
        plain, class_prompts = plain_pictures(world.LOOKS[subject].kind)
        enlarged = enlarge(family, reduce(pictures), prompts)
        atomic.write_json(path, judges.figures(subject, enlarged, enlarge(family, reduce(plain), class_prompts)))
    return atomic.read_json(path)


def sheet(subject: str, taught: Path) -> Image.Image:
    """Draw a sheet with the first pictures of each scene: small, enlarged by both upscalers, and as they are."""
    pictures, prompts = subjects_pictures(subject)
    chosen = [number for number in range(len(pictures)) if number % COUNT < SHOWN]
    pictures, prompts = [pictures[number] for number in chosen], [prompts[number] for number in chosen]
    small = reduce(pictures)
    columns = {f"{SMALL} x {SMALL}": [picture.resize((LARGE, LARGE), Image.Resampling.NEAREST) for picture in small]}
    for heading, model in (("enlarged by the embedded upscaler", paths.UPSCALER), ("by the taught one", taught)):
        columns[heading] = enlarge(loading.load_family(loading.Source(str(model))), small, prompts)
    columns["the subject"] = pictures
    rows = {
        heading: [each[first : first + SHOWN] for first in range(0, len(each), SHOWN)]
        for heading, each in columns.items()
    }
    return sheets.make_contact_sheet(prompts[::SHOWN], rows, SHOWN)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m miniworld.second_stage", description=__doc__)
    study.add_runs(parser)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("second-stage"),
        metavar="TEXT",
        help="for the results (default: second-stage)",
    )
    arguments = parser.parse_args(argv)
    libraries.load(weight_files.READERS)
    judges = Judge()
    rows: dict[str, dict[int, list[Figures]]] = {"a filter": {0: []}, "the embedded upscaler": {0: []}}
    rows |= {"taught": {seed: [] for seed in arguments.seeds}, "the subject's own pictures": {0: []}}
    for subject in arguments.subjects:
        folder = arguments.folder / subject
        rows["a filter"][0].append(measure_once(judges, None, subject, folder / "filter.json"))
        rows["the embedded upscaler"][0].append(measure_once(judges, paths.UPSCALER, subject, folder / "base.json"))
        for seed in arguments.seeds:
            result = train(subject, seed, arguments.folder)
            rows["taught"][seed].append(measure_once(judges, result, subject, result / "figures.json"))
        pictures, plain = subjects_pictures(subject)[0], plain_pictures(world.LOOKS[subject].kind)[0]
        rows["the subject's own pictures"][0].append(judges.figures(subject, pictures, plain))
        if not (folder / SHEET).exists():
            atomic.write_picture(folder / SHEET, sheet(subject, train(subject, arguments.seeds[0], arguments.folder)))
    print(tables.table_of_rows({name: tables.values_of(by_seed) for name, by_seed in rows.items()}))
    for subject in arguments.subjects:
        print(f"sheet          {arguments.folder / subject / SHEET}")


if __name__ == "__main__":
    console.run_command(main)
