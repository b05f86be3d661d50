"""The loss of DreamBooth."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddle import Tensor

    from dreambooth.data.concepts import MicroBatch


def example_errors(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the squared error of every value, [n, …] in float32.

    A mask [n, 1, …] weights the places of each example. It is scaled to a mean of 1, so that an example counts as much
    as without one.
    """
    errors = (prediction.astype("float32") - target.astype("float32")).square()
    if mask is None:
        return errors
    places = list(range(1, mask.ndim))
    return errors * (mask / mask.mean(axis=places, keepdim=True))


def dreambooth_loss(errors: Tensor, batch: MicroBatch, weight: Tensor | None, prior_weight: float) -> dict[str, Tensor]:
    """Average the subject's errors, and add those of the class with their weight (Ruiz et al. 2023, equation 2).

    `weight` [n] weights each example. Returns the loss to minimise, and each part before `prior_weight`. The losses of
    the parts of a micro-batch add up to its own.
    """
    if weight is not None:
        errors = errors * weight.reshape([-1, *[1] * (errors.ndim - 1)])
    subject = len(errors) - batch.prior
    # one mean over all values of a part: a mean of the examples' means would differ in the last bits
    parts = {}
    for name, of_part, share in zip(
        ("instance_loss", "prior_loss"), (errors[:subject], errors[subject:]), batch.shares
    ):
        if len(of_part):
            parts[name] = of_part.mean() * share if share < 1 else of_part.mean()
    weighted = [part * prior_weight if name == "prior_loss" else part for name, part in parts.items()]
    return {"loss": sum(weighted[1:], weighted[0]), **parts}
