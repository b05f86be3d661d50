"""The loss of DreamBooth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import paddle

if TYPE_CHECKING:
    from paddle import Tensor

    from dreambooth.data.concepts import MicroBatch


def example_errors(
    prediction: Tensor, target: Tensor, mask: Tensor | None = None, huber: float | None = None
) -> Tensor:
    """Compute the squared error of every value, [n, …] in float32.

    With `huber` it is the pseudo-Huber loss in its place, which goes over from square to straight at errors about this
    large (Charbonnier et al. 1997), scaled so that small errors count as their squares. A mask [n, 1, …] weights the
    places of each example. It is scaled to a mean of 1, so that an example counts as much as without one.
    """
    errors = (prediction.astype("float32") - target.astype("float32")).square()
    if huber is not None:
        errors = 2 * huber * (paddle.sqrt(errors + huber**2) - huber)
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
    instance_share, prior_share = batch.shares
    weighted, parts = [], {}
    for name, of_part, share, of_loss in (
        ("instance_loss", errors[:subject], instance_share, 1.0),
        ("prior_loss", errors[subject:], prior_share, prior_weight),
    ):
        if len(of_part):
            # one mean over all values of a part: a mean of the examples' means would differ in the last bits
            parts[name] = of_part.mean() * share
            weighted.append(parts[name] * of_loss)
    return {"loss": sum(weighted[1:], weighted[0]), **parts}
