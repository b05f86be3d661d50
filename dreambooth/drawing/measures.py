"""The measures of the DreamBooth paper (Ruiz et al. 2023), computed from unit vectors of CLIP and of DINO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dreambooth.system.types import Array

LEGEND = {
    "DINO": "more is better: is it the very subject?",
    "CLIP-I": "more is better: is it the subject?",
    "CLIP-T": "more is better: does it follow the prompt?",
    "PRES": "best as the base's: the class stays itself",
    "DIV": "best as the subject's: the pictures differ",
}
MEASURES = tuple(LEGEND)
_COMPARE = "Compare these figures with each other: the paper's table has another CLIP and another DINO perhaps"


@dataclass(frozen=True)
class Request:
    """A prompt to draw, and the subject's pictures to compare with: of the same scene, where the scenes are known."""

    prompt: str
    references: list[int]  # indices among the subject's pictures


def mean_cosine(some: Array, others: Array) -> float:
    """Return the mean cosine over all pairs of two sets of unit vectors [n, width]."""
    return float((some @ others.T).mean())


def mean_cosine_within(rows: Array) -> float | None:
    """Return the mean cosine over all pairs of different members of one set; None if there is no pair."""
    count = len(rows)
    if count < 2:
        return None
    return float(((rows @ rows.T).sum() - count) / (count * (count - 1)))


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there is none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def diversity(groups: Iterable[Array]) -> float | None:
    """Return the mean distance, 1 - cosine, of two pictures of the same prompt."""
    alike = mean_of_known(mean_cosine_within(group) for group in groups)
    return None if alike is None else 1 - alike


def fidelity(drawn: Sequence[Array], subject: Array, requests: Sequence[Request]) -> float | None:
    """Return the mean cosine of the drawn pictures of each request and the subject's own: CLIP-I, or DINO."""
    return mean_of_known(mean_cosine(rows, subject[request.references]) for rows, request in zip(drawn, requests))


def fidelity_of_subject(subject: Array, requests: Sequence[Request]) -> float | None:
    """Return the same of the subject's own pictures among each other."""
    return mean_of_known(mean_cosine_within(subject[request.references]) for request in requests)


def measure_model(
    drawn: Sequence[Array], class_pictures: Array, subject: Array, requests: Sequence[Request], prompts: Array
) -> dict[str, float | None]:
    """Return {measure: value} of one model.

    All arrays hold unit vectors in rows: `drawn` the pictures of each request, `class_pictures` those of the class
    prompt, perhaps none, `subject` the subject's own, `prompts` the text of each request.
    """
    return {
        "CLIP-I": fidelity(drawn, subject, requests),
        "CLIP-T": mean_of_known(mean_cosine(rows, prompt[None]) for rows, prompt in zip(drawn, prompts)),
        "PRES": mean_cosine(class_pictures, subject) if len(class_pictures) else None,
        "DIV": diversity(drawn),
    }


def measure_subject(subject: Array, requests: Sequence[Request], prompts: Array) -> dict[str, float | None]:
    """Return {measure: value} of the subject's own pictures, the values of a perfect model."""
    references = [subject[request.references] for request in requests]
    return {
        "CLIP-I": fidelity_of_subject(subject, requests),
        "CLIP-T": mean_of_known(mean_cosine(rows, prompt[None]) for rows, prompt in zip(references, prompts)),
        "PRES": mean_cosine_within(subject),
        "DIV": diversity(references),
    }


def nearest(rows: Array, subjects: Sequence[Array]) -> list[float]:
    """Return, for each of several subjects, the share of pictures that resemble its own most, by the mean cosine."""
    alike = np.stack([(rows @ each.T).mean(axis=1) for each in subjects])
    return [float(share) for share in np.bincount(alike.argmax(axis=0), minlength=len(subjects)) / len(rows)]


def share_gained(base: float | None, tuned: float | None, subject: float | None) -> float | None:
    """Return how far the fine-tuned model comes from the base's value to the subject's own: 0 at the base, 1 there."""
    if base is None or tuned is None or subject is None or subject == base:
        return None
    return (tuned - base) / (subject - base)


def table(report: Mapping[str, Any], is_last: bool = True) -> str:
    """Format the figures for people; behind the last table stands how to read all."""
    columns = list(report["measures"])
    lines = ["".join(f"{name:>12}" for name in ("", *columns))]
    for measure in MEASURES:
        values = [report["measures"][name].get(measure) for name in columns]
        if measure == "DINO" and not any(values):
            continue  # no DINO measured
        figures = "".join(f"{'-' if value is None else f'{value:.3f}':>12}" for value in values)
        lines.append(f"{measure:>12}{figures}   {LEGEND[measure]}")
    share = report["fidelity gained"]
    if share is not None:
        lines.append(
            f"CLIP-I has come {round(share, 2) + 0.0:.0%} of the way from the base to the subject's own pictures"
        )
    return "\n".join([*lines, *([_COMPARE] if is_last else [])])


def table_of_several(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the figures of several subjects: a table for each, and whose pictures those of each resemble most."""
    parts = [f"{name}\n{table(report, is_last=False)}" for name, report in reports.items()]
    width = max(12, *(len(name) + 2 for name in reports))
    lines = ["The share of each subject's pictures that resemble most the own pictures of"]
    lines.append("".join(f"{name:>{width}}" for name in ("", *reports)))
    for name, report in reports.items():
        lines.append(f"{name:>{width}}" + "".join(f"{share:>{width}.2f}" for share in report["nearest"]))
    return "\n\n".join([*parts, "\n".join([*lines, _COMPARE])])
