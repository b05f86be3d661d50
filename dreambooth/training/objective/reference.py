"""The model as it was before the training, whose predictions are the targets of the class."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

import paddle

if TYPE_CHECKING:
    from paddle import Tensor

    from dreambooth.data.concepts import MicroBatch
    from dreambooth.models.families.base import Family
    from dreambooth.system.types import Tensors


class Reference:
    """The network before the training: itself without its LoRA, or else a copy, which takes as much memory again.

    It must be made before the training begins, or goes on.
    """

    def __init__(self, family: Family) -> None:
        self._family, self._is_copy = family, not family.adapters
        if self._is_copy:
            self._family = copy.copy(family)
            self._family.pipeline = copy.copy(family.pipeline)
            network = copy.deepcopy(family.denoiser)
            network.eval()
            for parameter in network.parameters():
                parameter.stop_gradient = True
            setattr(self._family.pipeline, family.facts.denoiser, network)

    @paddle.no_grad()
    def replace(self, target: Tensor, batch: MicroBatch, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        """Return the target [n, …] with this network's predictions in the rows of the class."""
        subject = len(noisy) - batch.prior
        if not batch.prior:
            return target
        rows = {name: tensor[subject:] for name, tensor in conditioning.items()}
        with contextlib.nullcontext() if self._is_copy else self._family.adapters.off():
            predicted = self._family.predict(noisy[subject:], t[subject:], rows)
        return paddle.concat([target[:subject], predicted.astype(target.dtype)]) if subject else predicted
