"""Study several subjects at once: one run for two dogs and a car, against one run for each.

    python -m miniworld.together                 # in ./together; resumes after a stop
    python -m miniworld.together --seeds 0

The run for all has fewer examples of each. Beside the figures of `python -m miniworld.study`, "other's marks" is the
share of a subject's pictures in which the mark or the hat is that of another one, and not its own. "taken for another"
is the share that resembles another one's pictures more than its own, by CLIP.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreambooth.config.parser import Parser
from dreambooth.drawing import measures
from dreambooth.files import atomic, moves, weight_files
from dreambooth.models import loading
from dreambooth.system import console, libraries
from miniworld import paths, photograph, study, tables, world
from miniworld.evaluator import Evaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniworld.evaluator import Figures

ALONE, TOGETHER = int(study.TRAINING["max_train_steps"]), 450  # updates
WORDS = {"dog": "sks dog", "other dog": "wcm dog", "car": "ukj car"}


def concepts(folder: Path, subjects: Sequence[str]) -> list[dict[str, str]]:
    """Return a list for --concepts; the pictures are written where they are missing."""
    found = []
    for subject in subjects:
        pictures = folder / "pictures" / subject.replace(" ", "-")
        if not pictures.is_dir():
            photograph.write_training_pictures(subject, pictures)
        found.append(
            {
                "instance_data_dir": str(pictures),
                "instance_prompt": f"a photo of {WORDS[subject]}",
                "class_prompt": f"a photo of a {world.LOOKS[subject].kind}",
            }
        )
    return found


def train(subjects: Sequence[str], steps: int, seed: int, folder: Path) -> Path:
    """Teach the embedded model some subjects in one run, unless the result exists; return its folder."""
    import train_dreambooth

    result = folder / f"{'-'.join(subjects).replace(' ', '-')}-{steps}-{seed}"
    if not (result / moves.INDEX).exists():
        listed = result.with_suffix(".json")
        atomic.write_json(listed, concepts(folder, subjects))
        flags = {
            "pretrained_model_name_or_path": paths.MODEL,
            "concepts": listed,
            "class_data_dir": folder / "class",
            "output_dir": result,
            "seed": seed,
            "no_last_checkpoint": None,
            **study.TRAINING,
            **study.PRIOR,
            "max_train_steps": steps,
        }
        train_dreambooth.main(study.command_line(flags))
    return result


def has_others_marks(parts: dict[str, str | None], subject: str) -> bool:
    """Check whether the named parts of a picture are the mark or the hat of another subject, and not its own."""
    own = world.LOOKS[subject]
    others = [world.LOOKS[name] for name in WORDS if name != subject]
    mark, hat = _mark_and_hat(parts)
    return any(
        (mark is not None and mark == other.mark != own.mark) or (hat is not None and hat == other.hat != own.hat)
        for other in others
    )


def _mark_and_hat(parts: dict[str, str | None]) -> tuple[object, object]:
    """Return the mark and the hat as a look has them; None where there is none."""
    mark = (parts["mark colour"], parts["mark"]) if parts["mark"] else None
    hat = (parts["hat colour"], parts["second hat colour"]) if parts["hat"] else None
    return mark, hat


def figures(evaluator: Evaluator, model: Path, subjects: Sequence[str]) -> dict[str, Figures]:
    """Draw each subject with a model, and measure."""
    family = loading.load_family(loading.Source(str(model)))
    references = {
        name: evaluator.clip.encode_pictures([each for group in evaluator.photographs(name) for each in group])
        for name in WORDS
    }
    found: dict[str, Figures] = {}
    for subject in subjects:
        groups, of_class = evaluator.draw(family, subject)
        pictures = [picture for group in groups for picture in group]
        parts = evaluator.detector.name_parts(pictures)
        likeness = measures.nearest(evaluator.clip.encode_pictures(pictures), list(references.values()))
        found[subject] = {
            **evaluator.figures(subject, groups, of_class),
            "other's marks": float(np.mean([has_others_marks(each, subject) for each in parts])),
            "taken for another": 1 - likeness[list(WORDS).index(subject)],
        }
    return found


def measure_once(evaluator: Evaluator, model: Path, subjects: Sequence[str], path: Path) -> dict[str, Figures]:
    """Measure a model, unless a file has its figures."""
    if not path.exists():
        atomic.write_json(path, figures(evaluator, model, subjects))
    return atomic.read_json(path)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m miniworld.together", description=__doc__)
    add = parser.add_argument
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--steps", type=int, default=TOGETHER, metavar="N", help=f"updates of the run for all (default: {TOGETHER})")
    add("--folder", type=Path, default=Path("together"), metavar="TEXT", help="for the results (default: together)")
    arguments = parser.parse_args(argv)
    libraries.load(weight_files.READERS)
    evaluator, folder = Evaluator(WORDS), arguments.folder
    columns: dict[str, list[Figures]] = {"base": []}
    base = measure_once(evaluator, paths.MODEL, list(WORDS), folder / "base.json")
    columns["base"] = list(base.values())
    for subject in WORDS:
        for seed in arguments.seeds:
            result = train([subject], ALONE, seed, folder)
            alone = measure_once(evaluator, result, [subject], result / "figures.json")
            columns.setdefault(f"{subject}, alone", []).append(alone[subject])
    for seed in arguments.seeds:
        result = train(list(WORDS), arguments.steps, seed, folder)
        together = measure_once(evaluator, result, list(WORDS), result / "figures.json")
        for subject, found in together.items():
            columns.setdefault(f"{subject}, together", []).append(found)
    print(tables.table({name: tables.mean_figures(rows) for name, rows in columns.items()}))


if __name__ == "__main__":
    console.run_command(main)
