"""The model as it was before the training, whose predictions are the targets of the class."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

import paddle

from dreambooth.data import randomness

if TYPE_CHECKING:
    from paddle import Tensor

    from dreambooth.data.concepts import MicroBatch
    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Tensors
    from dreambooth.training.objective.diffusion import Diffusion


class Reference:
    """The network before the training: itself without its LoRA, or else a copy, which takes as much memory again.

    It must be made before the training begins, or goes on. Without class pictures it drafts latents of the class. With
    the subject's in their place, the network learns to contrast the two prompts at what the subject looks like, which
    guided drawing multiplies: on the embedded model, CLIP-I then goes -40 % of the way in place of 95.
    """

    def __init__(self, family: Family, diffusion: Diffusion, has_pictures: bool) -> None:
        self._family, self._diffusion, self._is_copy = family, diffusion, not family.adapters
        self._has_pictures = has_pictures
        if self._is_copy:
            self._family = copy.copy(family)
            self._family.pipeline = copy.copy(family.pipeline)
            network = copy.deepcopy(family.denoiser)
            network.eval()
            for parameter in network.parameters():
                parameter.stop_gradient = True
            setattr(self._family.pipeline, family.facts.denoiser, network)

    def draft(self, clean: Tensor, batch: MicroBatch, conditioning: Tensors, seed: int) -> Tensor:
        """Return the clean latents [n, …] with drafts in the rows of the class, unless these have pictures.

        A draft is what the model takes noise alone for. Drafts of four steps of DDIM teach no better.
        """
        subject = len(clean) - batch.prior
        if self._has_pictures or not batch.prior:
            return clean
        keys = batch.keys[subject:]
        noisy = paddle.to_tensor(randomness.normal(seed, "class draft", keys, tuple(clean.shape[1:])))
        rows = {name: tensor[subject:] for name, tensor in conditioning.items()}
        last = self._diffusion.last(len(keys))
        drafted = self._diffusion.clean(noisy, self._predict(noisy, last, rows), last)
        return paddle.concat([clean[:subject], drafted]) if subject else drafted

    def replace(self, target: Tensor, batch: MicroBatch, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        """Return the target [n, …] with this network's predictions in the rows of the class."""
        subject = len(noisy) - batch.prior
        if not batch.prior:
            return target
        rows = {name: tensor[subject:] for name, tensor in conditioning.items()}
        predicted = self._predict(noisy[subject:], t[subject:], rows).astype(target.dtype)
        return paddle.concat([target[:subject], predicted]) if subject else predicted

    @paddle.no_grad()
    def _predict(self, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        with contextlib.nullcontext() if self._is_copy else self._family.adapters.off():
            return self._family.predict(noisy, t, conditioning).astype("float32")
