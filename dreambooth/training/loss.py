"""The loss of DreamBooth."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddle import Tensor


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


def dreambooth_loss(errors: Tensor, prior: int, weight: Tensor | None, prior_weight: float) -> dict[str, Tensor]:
    """Average the subject's errors, and add those of the class with their weight (Ruiz et al. 2023, equation 2).

    The last `prior` examples show the class. `weight` [n] weights each example. Returns the loss to minimise, and each
    part before `prior_weight`.
    """
    if weight is not None:
        errors = errors * weight.reshape([-1, *[1] * (errors.ndim - 1)])
    # one mean over all values of a part: a mean of the examples' means would differ in the last bits
    instance = errors[: len(errors) - prior].mean() if prior else errors.mean()
    if not prior:
        return {"loss": instance, "instance_loss": instance}
    of_class = errors[len(errors) - prior :].mean()
    return {"loss": instance + prior_weight * of_class, "instance_loss": instance, "prior_loss": of_class}
