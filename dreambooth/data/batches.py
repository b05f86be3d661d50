"""The examples of each micro-batch: a function of the seed, the update and the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth.data import randomness, transforms
from dreambooth.data.concepts import Example, MicroBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.config.sections import OptimizerSettings, PictureSettings
    from dreambooth.data.concepts import Concept, Picture, View
    from dreambooth.system.types import Key


class Batches:
    """All pictures and prompts of a run, and the endless sequence of examples that is drawn from them."""

    def __init__(
        self,
        concepts: Sequence[Concept],
        optimizer: OptimizerSettings,
        pictures: PictureSettings,
        seed: int,
        rank: int,
        processes: int,
        caption_dropout: float = 0.0,
    ) -> None:
        self.pictures: list[Picture] = []
        self.views: list[tuple[View, ...]] = []  # of each picture
        self.prompts: list[str] = []  # the distinct ones
        self._numbers: dict[str, int] = {}  # of the prompts
        self._prompt_of: list[int] = []  # of each picture
        self._optimizer, self._settings = optimizer, pictures
        self._seed, self._rank, self._processes = seed, rank, processes
        instance: list[int] = []
        prior: list[int] = []
        for concept in concepts:
            instance += self.add(concept.pictures, concept.prompt)
            if concept.class_pictures and concept.class_prompt:
                prior += self.add(concept.class_pictures, concept.class_prompt)
        self._dropout = caption_dropout
        self._empty = self._number("") if caption_dropout else None  # of the prompt in the place of a dropped one
        self._kinds = (instance, prior)  # the pictures of the subjects, and those of the classes
        kinds = 2 if prior else 1
        self.pictures_at_once = optimizer.train_batch_size * kinds  # in a micro-batch of this process
        self.pictures_per_update = optimizer.global_batch(processes) * kinds

    @property
    def has_masks(self) -> bool:
        """Check whether not all places of all pictures count."""
        padded = any(view.inside for views in self.views for view in views)
        return padded or any(picture.mask for picture in self.pictures)

    @property
    def unmasked_weight(self) -> float:
        """The weight of what a mask leaves out."""
        return self._settings.unmasked_weight

    def add(self, pictures: Sequence[Picture], prompt: str) -> range:
        """Add pictures with their captions, or else this prompt, and return their indices."""
        first = len(self.pictures)
        self.pictures += pictures
        self.views += [transforms.views(picture.size, self._settings) for picture in pictures]
        self._prompt_of += [self._number(picture.caption or prompt) for picture in pictures]
        return range(first, len(self.pictures))

    def _number(self, prompt: str) -> int:
        if prompt not in self._numbers:
            self._numbers[prompt] = len(self.prompts)
            self.prompts.append(prompt)
        return self._numbers[prompt]

    def micro_batch(self, update: int, micro: int) -> MicroBatch:
        """Choose the examples that this process takes in micro-batch `micro` of an update.

        Slots number the examples of one update over all micro-batches and processes, so the same update results
        however it is split.
        """
        size = self._optimizer.train_batch_size
        first = (micro * self._processes + self._rank) * size
        examples = [
            self._example((update, slot, kind))
            for kind, group in enumerate(self._kinds)
            for slot in range(first, first + size)
            if group
        ]
        return MicroBatch(tuple(examples), prior=size if self._kinds[1] else 0)

    def _example(self, key: Key) -> Example:
        update, slot, kind = key
        group = self._kinds[kind]
        index = update * self._optimizer.global_batch(self._processes) + slot
        picture = group[randomness.pick(self._seed, f"order of kind {kind}", len(group), index)]
        views = self.views[picture]
        # the mirror image comes second
        view = views[randomness.integers(self._seed, "flip", [key], len(views))[0]] if len(views) > 1 else views[0]
        prompt = self._prompt_of[picture]
        if self._empty is not None and kind == 0 and self._is_dropped(key):
            prompt = self._empty
        return Example(key, picture, prompt, view)

    def _is_dropped(self, key: Key) -> bool:
        """Choose, for an example of a subject, whether it has the empty prompt."""
        return randomness.uniform(self._seed, "caption dropout", key) < self._dropout
