"""One number for a model on its way: more is better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    Figures = Mapping[str, float | None]

SUBJECT_LOSS, CLASS_LOSS = "validation_loss", "validation_class_loss"
SCORE = "score"


def of_measures(found: Figures, base: Figures, own: Figures) -> float:
    """Return the geometric mean of what the model has of the subject, of the prompts and of the class, from 0 to 1.

    The subject: how far APART has come from the base's to that of the subject's own pictures, or else CLIP-I. The
    prompts: CLIP-T over the base's, where it is lower. The class: how much of the second half of the way to the
    subject's own pictures DRIFT has not gone, or else PRES. The first half is free: trained on the subject, a model
    draws the class's pictures anew, and their figures move without a loss. These are means, so a class whose pictures
    are the subject in less than half of the cases counts as whole. A model that lacks one of the three is worth
    nothing, however good the others are, and the mean is then 0. All are shares of what is possible, so no weights
    between cosines of different ranges have to be chosen. Figures that are no numbers have no score: it is NaN.
    """
    if not all(math.isfinite(value) for value in found.values() if value is not None):
        return math.nan
    gone = {
        name: _share(found.get(name), base.get(name), own.get(name)) for name in ("APART", "CLIP-I", "DRIFT", "PRES")
    }
    lost = _first(gone["DRIFT"], gone["PRES"])
    parts = [
        _first(gone["APART"], gone["CLIP-I"]),
        _ratio(found.get("CLIP-T"), base.get("CLIP-T")),
        None if lost is None else min(1.0, 2 * (1 - lost)),
    ]
    known = [part for part in parts if part is not None]
    return math.prod(known) ** (1 / len(known)) if known else 0.0


def of_losses(found: Figures, prior_weight: float) -> float:
    """Return the loss on the held-out noise, that of the class with its weight, as a score."""
    return -((found.get(SUBJECT_LOSS) or 0.0) + prior_weight * (found.get(CLASS_LOSS) or 0.0))


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _share(value: float | None, base: float | None, own: float | None) -> float | None:
    if value is None or base is None or own is None or own <= base:
        return None
    return min(1.0, max(0.0, (value - base) / (own - base)))


def _ratio(value: float | None, base: float | None) -> float | None:
    if value is None or base is None or base <= 0:
        return None
    return min(1.0, max(0.0, value / base))
