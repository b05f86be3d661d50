"""Study the choice of a checkpoint: how far it is from the best one, and how many updates patience saves.

    python -m miniworld.choosing                              # all, in ./choosing; resumes after a stop
    python -m miniworld.choosing --subjects dog --seeds 0     # some of it

Each run has class pictures, more updates than are good for it, and validations on the way. Then its
checkpoints are measured with the same score on pictures from other noise, so the best of them is known in hindsight.
The pictures have two halves: one names the best, the other compares it with the choice, and the other way round.
Otherwise the best of several scores would be the luckiest one too. "chosen" is the one that --keep_best saves with
--patience. That follows from the run's record, because patience changes no update.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dreambooth.config.parser import Parser
from dreambooth.files import atomic, records, weight_files
from dreambooth.run.choosing import score
from dreambooth.system import console, libraries
from miniworld import evaluator, paths, study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from miniworld.evaluator import Evaluator, Figures

STEPS, EVERY, PATIENCE = 600, 75, 1  # updates, updates between validations, validations without a better score
SHOWN, MEASURED = 12, 8  # pictures of a prompt in a validation, and in each half of the hindsight
NEAR = 0.02  # the best


class Choice(NamedTuple):
    """The checkpoint that a run chooses, and the best in hindsight, by their updates."""

    chosen: int
    end: int  # of the run
    best: int
    lost: float  # of the score, by the choice


def train(subject: str, seed: int, folder: Path) -> Path:
    """Teach the model a subject with validations, and keep all checkpoints, unless the result exists."""
    result = folder / subject / f"choosing-{seed}"
    if not (result / records.RESULT).exists():
        study.run(
            {
                **study.flags(subject, "prior", seed, result),
                "max_train_steps": STEPS,
                "save_steps": EVERY,
                "checkpoints_total_limit": 0,
                "resume_from_checkpoint": "latest",
                "validation_steps": EVERY,
                "validation_prompt": evaluator.prompts(f"sks {subject}"),
                "num_validation_images": SHOWN,
                "clip_model_path": paths.CLIP,
                "keep_best": None,
            }
        )
    return result


def choose(validations: Sequence[Mapping[str, float]], patience: int = PATIENCE) -> tuple[int, int]:
    """Return (the updates of the best validation, those of the last) of a run with so much patience."""
    from dreambooth.training.best import Best

    best = Best(is_kept=False, patience=patience, named={})
    for each in validations:
        best.add(int(each["step"]), dict(each))
        if best.is_over:
            break
    assert best.best is not None
    return best.best.step, best.history[-1].step


def measure(judges: Sequence[Evaluator], subject: str, result: Path) -> list[dict[int, Figures]]:
    """Measure each checkpoint of a run once by each judge, and remove it; return each judge's figures."""
    found: list[dict[int, Figures]] = [{} for _ in judges]
    for step in range(EVERY, STEPS + 1, EVERY):
        checkpoint = result / f"checkpoint-{step}"
        for half, (judge, figures) in enumerate(zip(judges, found)):
            path = result / f"figures-{step}-{half}.json"
            figures[step] = study.measure_once(judge, checkpoint, subject, path)
        shutil.rmtree(checkpoint, ignore_errors=True)
    return found


def score_of(found: Figures, base: Figures, real: Figures) -> float:
    """Return the score of figures, where the detector tells whether the class is still itself."""
    shown = found["class shows subject"]
    # the second half of the way to the subject counts, and all of the detector's share does
    drift = None if shown is None else (1 + shown) / 2
    return score.of_measures({**found, "DRIFT": drift}, {**base, "DRIFT": 0.0}, {**real, "DRIFT": 1.0})


def compare(validations: Sequence[Mapping[str, float]], halves: Sequence[Mapping[int, float]]) -> Choice:
    """Compare the choice of a run with the best in hindsight: the best of each half's scores by the other's."""
    chosen, end = choose(validations)
    one, other = halves
    lost = [
        there[max(here, key=lambda step: here[step])] - there[chosen] for here, there in ((one, other), (other, one))
    ]
    best = max(one, key=lambda step: one[step] + other[step])
    return Choice(chosen, end, best, sum(lost) / 2)


def table(choices: Mapping[str, Choice]) -> str:
    """Return a table in Markdown of each run's choice, and what holds for all of them."""
    lines = ["| run | chosen | best | score lost | end |", "|---|---|---|---|---|"]
    lines += [f"| {run} | {one.chosen} | {one.best} | {one.lost:.3f} | {one.end} |" for run, one in choices.items()]
    near = sum(each.lost <= NEAR for each in choices.values())
    saved = 1 - sum(each.end for each in choices.values()) / (STEPS * len(choices))
    summary = f"{near} of {len(choices)} choices are within {NEAR} of the best; {saved:.0%} of the updates are saved"
    return "\n".join([*lines, "", summary])


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="python -m miniworld.choosing", description=__doc__)
    add = parser.add_argument
    study.add_runs(parser)
    add("--folder", type=Path, default=Path("choosing"), metavar="TEXT", help="for the results (default: choosing)")
    arguments = parser.parse_args(argv)
    libraries.load(weight_files.READERS)
    # other noise than that of the validations
    judges = [evaluator.Evaluator(first=SHOWN + half * MEASURED, count=MEASURED) for half in range(2)]
    choices = {}
    for subject in arguments.subjects:
        real = judges[0].figures_of_photographs(subject)
        base = study.measure_once(judges[0], paths.MODEL, subject, arguments.folder / subject / "base.json")
        for seed in arguments.seeds:
            result = train(subject, seed, arguments.folder)
            validations = atomic.read_json(result / records.RESULT)["validations"]
            measured = measure(judges, subject, result)
            halves = [{step: score_of(each, base, real) for step, each in half.items()} for half in measured]
            choices[f"{subject}, seed {seed}"] = compare(validations, halves)
    print(table(choices))


if __name__ == "__main__":
    console.run_command(main)
