"""The loss on noise and timesteps that are the same at each validation, so that its values can be compared."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dreambooth.data.batches import Batches
from dreambooth.run.choosing import score
from dreambooth.system.devices import cards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.config.learning_sections import OptimizerSettings
    from dreambooth.config.run_sections import MemorySettings
    from dreambooth.config.sections import PictureSettings
    from dreambooth.data.concepts import Concept
    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Size
    from dreambooth.training.objective.diffusion import Diffusion

EXAMPLES = 24  # of the subject, at least; as many of the class
_SEED = 1 << 31  # none that a run chooses


class HeldOut:
    """The loss on pictures that are not trained on, or on those that are, with noise that they are not trained with.

    The timesteps go evenly over all. It must be made before the encoders are freed.
    """

    def __init__(
        self,
        family: Family,
        diffusion: Diffusion,
        concepts: Sequence[Concept],
        optimizer: OptimizerSettings,
        pictures: PictureSettings,
        sizes: Sequence[Size],
        memory: MemorySettings,
    ) -> None:
        from dreambooth.training.encodings import Encodings

        self._family, self._diffusion = family, diffusion
        of_one_pass = dataclasses.replace(optimizer, gradient_accumulation_steps=1)
        batches = Batches(concepts, of_one_pass, pictures, _SEED, 0, 1, sizes=sizes)
        self._half = cards.half(memory.mixed_precision)
        self._encodings = Encodings(family, batches, memory, _SEED)
        size = optimizer.train_batch_size
        most = max(EXAMPLES, sum(len(concept.pictures) for concept in concepts))
        self._batches = [batches.micro_batch(number, 0) for number in range(-(-most // size))]
        self._count = size * len(self._batches)

    def figures(self) -> dict[str, float | None]:
        """Return the mean loss over the subject's examples, and over the class's where there are any."""
        import paddle

        from dreambooth.training.objective import loss

        errors: dict[str, list[float]] = {score.SUBJECT_LOSS: [], score.CLASS_LOSS: []}
        self._family.adapters.clear_dropout()
        with paddle.no_grad():
            for number, batch in enumerate(self._batches):
                subject = len(batch.examples) - batch.prior
                clean = self._encodings.latents(batch)
                noise = self._diffusion.noise(_SEED, batch.keys, clean.shape[1:])
                shares = (number * subject + np.arange(len(batch.examples)) % subject + 0.5) / self._count
                t = self._diffusion.t_at(shares)
                noisy, target = self._diffusion.add_noise(clean, noise, t), self._diffusion.target(clean, noise, t)
                with cards.computing_in(self._half):
                    predicted = self._family.predict(noisy, t, self._encodings.conditioning(batch))
                scaled = self._family.scaled_for_loss(predicted), self._family.scaled_for_loss(target)
                of_examples = loss.example_errors(*scaled, self._encodings.masks(batch))
                means = of_examples.flatten(1).mean(1).tolist()
                errors[score.SUBJECT_LOSS] += means[:subject]
                errors[score.CLASS_LOSS] += means[subject:]
        return {name: float(np.mean(values)) for name, values in errors.items() if values}
