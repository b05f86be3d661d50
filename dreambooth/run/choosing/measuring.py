"""The measures of validation pictures by a CLIP, against the pictures of the subject and of its class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreambooth.data import picture_files, rare_words
from dreambooth.drawing import measures
from dreambooth.drawing.instruments.clip import Clip
from dreambooth.drawing.measures import Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from dreambooth.data.concepts import Concept, Picture
    from dreambooth.data.rare_words import RareWords
    from dreambooth.system.types import Array

    Figures = dict[str, float | None]

_MOST = 64  # of a subject's pictures, and of a class's, in the order of their names


class ClipMeasures:
    """CLIP-I, CLIP-T, PRES and DIV of a model in training.

    A prompt's pictures are compared with the subject whose rare word is in it, or with all. PRES is the mean over the
    classes. Where there are class pictures, KEPT is the share of the class prompt's pictures that resemble these more
    than the subject's own. Of a few pictures it has less noise than PRES.
    """

    def __init__(self, name: str, concepts: Sequence[Concept], prompts: Sequence[str], words: RareWords) -> None:
        self._clip = Clip(name)
        identifiers = [words.identifier(concept.prompt, concept.class_prompt) for concept in concepts]
        owners: list[list[int]] = []  # of each picture, by concept
        vectors = []
        for concept in concepts:
            vectors.append(self._encode(concept.pictures))
            first = sum(map(len, owners))
            owners.append(list(range(first, first + len(vectors[-1]))))
        self._subject = np.concatenate(vectors)
        self._requests, texts = [], []
        for prompt in prompts:
            own = [number for number, word in enumerate(identifiers) if word and word in prompt.lower().split()]
            listed = own or range(len(concepts))
            self._requests.append(Request(prompt, [index for number in listed for index in owners[number]]))
            texts.append(rare_words.without(prompt, identifiers[own[0]] if own else None))
        self._texts = self._clip.encode_prompts(texts)
        self.class_prompts = list(dict.fromkeys(each.class_prompt for each in concepts if each.class_prompt))
        self._classes = {
            each.class_prompt: self._encode(each.class_pictures)
            for each in concepts
            if each.class_prompt and each.class_pictures
        }
        self._of_class = [
            [index for each, own in zip(concepts, owners) if each.class_prompt == prompt for index in own]
            for prompt in self.class_prompts
        ]

    def figures(self, drawn: Sequence[Sequence[Image]], of_classes: Sequence[Sequence[Image]]) -> Figures:
        """Measure the pictures of each prompt, and of each class prompt."""
        rows = [self._clip.encode_pictures(group) for group in drawn]
        nothing = np.zeros([0, self._subject.shape[1]])
        found = measures.measure_model(rows, nothing, self._subject, self._requests, self._texts)
        preserved, kept = list[float | None](), list[float | None]()
        for prompt, group, own in zip(self.class_prompts, of_classes, self._of_class):
            vectors = self._clip.encode_pictures(group)
            preserved.append(measures.mean_cosine(vectors, self._subject[own]))
            if prompt in self._classes:
                kept.append(measures.nearest(vectors, [self._classes[prompt], self._subject[own]])[0])
        found["PRES"] = measures.mean_of_known(preserved)
        return {**found, "KEPT": measures.mean_of_known(kept)} if kept else found

    def _encode(self, pictures: Sequence[Picture]) -> Array:
        return self._clip.encode_pictures([picture_files.open_picture(each.path) for each in pictures[:_MOST]])

    def figures_of_subject(self) -> Figures:
        """Measure the subject's own pictures: the best figures that a model can have."""
        return measures.measure_subject(self._subject, self._requests, self._texts)
