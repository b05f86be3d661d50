"""The measures of validation pictures by a CLIP, against the pictures of the subject and of its class."""

from __future__ import annotations

import functools
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

_MOST = 64  # of a subject's pictures, in the order of their names


class ClipMeasures:
    """CLIP-I, CLIP-T, PRES and DIV of a model in training; with class pictures, APART and DRIFT too.

    A prompt's pictures are compared with the subject whose rare word is in it, or with all. PRES and DRIFT are means
    over the classes. APART is how much more the prompts' pictures resemble the subject than its class, and DRIFT is the
    same of the class prompt's. Both are differences of mean cosines: what any picture has in common with any other,
    such as a scene, is not in them.
    """

    def __init__(self, name: str, concepts: Sequence[Concept], prompts: Sequence[str], words: RareWords) -> None:
        self._clip = Clip(name)
        identifiers = [words.identifier(concept.prompt, concept.class_prompt) for concept in concepts]
        owners: list[list[int]] = []  # of each picture, by concept
        vectors = []
        for concept in concepts:
            vectors.append(self._encode(concept.pictures[:_MOST]))
            first = sum(map(len, owners))
            owners.append(list(range(first, first + len(vectors[-1]))))
        self._subject = np.concatenate(vectors)
        self._requests, texts = [], []
        for prompt in prompts:
            own = [number for number, word in enumerate(identifiers) if rare_words.has(prompt, word)]
            listed = own or range(len(concepts))
            self._requests.append(Request(prompt, [index for number in listed for index in owners[number]]))
            texts.append(functools.reduce(rare_words.without, [identifiers[number] for number in own], prompt))
        self._texts = self._clip.encode_prompts(texts)
        self.class_prompts = list(dict.fromkeys(each.class_prompt for each in concepts if each.class_prompt))
        of_class = {prompt: _class_pictures(concepts, prompt) for prompt in self.class_prompts}
        self._classes = {prompt: self._encode(pictures) for prompt, pictures in of_class.items() if pictures}
        self._others = [self._class_of(concepts, owners, request) for request in self._requests]
        self._of_class = [
            [index for each, own in zip(concepts, owners) if each.class_prompt == prompt for index in own]
            for prompt in self.class_prompts
        ]

    def figures(self, drawn: Sequence[Sequence[Image]], of_classes: Sequence[Sequence[Image]]) -> Figures:
        """Measure the pictures of each prompt, and of each class prompt."""
        rows = [self._clip.encode_pictures(group) for group in drawn]
        nothing = np.zeros([0, self._subject.shape[1]])
        found = measures.measure_model(rows, nothing, self._subject, self._requests, self._texts)
        found |= self._apart(rows, found["CLIP-I"])
        preserved, drifts = list[float | None](), list[float | None]()
        for prompt, group, own in zip(self.class_prompts, of_classes, self._of_class):
            vectors = self._clip.encode_pictures(group)
            alike = measures.mean_cosine(vectors, self._subject[own])
            preserved.append(alike)
            if prompt in self._classes:
                drifts.append(alike - measures.mean_cosine(vectors, self._classes[prompt]))
        found["PRES"] = measures.mean_of_known(preserved)
        return {**found, "DRIFT": measures.mean_of_known(drifts)} if drifts else found

    def _encode(self, pictures: Sequence[Picture]) -> Array:
        return self._clip.encode_pictures([picture_files.open_picture(each.path) for each in pictures])

    def figures_of_subject(self) -> Figures:
        """Measure the subject's own pictures: the best figures that a model can have."""
        found = measures.measure_subject(self._subject, self._requests, self._texts)
        rows = [self._subject[request.references] for request in self._requests]
        # as measures.measure_subject() has them, but for one picture and for several subjects
        found["CLIP-I"] = measures.mean_of_known(map(_alike, rows))
        found["PRES"] = measures.mean_of_known(_alike(self._subject[own]) for own in self._of_class)
        found |= self._apart(rows, found["CLIP-I"])
        drifts = [
            _alike(self._subject[own]) - measures.mean_cosine(self._subject[own], self._classes[prompt])
            for prompt, own in zip(self.class_prompts, self._of_class)
            if prompt in self._classes
        ]
        return {**found, "DRIFT": measures.mean_of_known(drifts)} if drifts else found

    def _class_of(self, concepts: Sequence[Concept], owners: Sequence[Sequence[int]], request: Request) -> Array | None:
        """Return the class pictures of the subjects that a prompt is compared with; None if one of them has none."""
        compared = [each for each, own in zip(concepts, owners) if {*own} & {*request.references}]
        classes = dict.fromkeys(each.class_prompt for each in compared)
        found = [self._classes[prompt] for prompt in classes if prompt in self._classes]
        return np.concatenate(found) if found and len(found) == len(classes) else None

    def _apart(self, rows: Sequence[Array], fidelity: float | None) -> Figures:
        """Return how much more the pictures of each prompt resemble the subject than its class."""
        known = [others for others in self._others if others is not None]
        if fidelity is None or len(known) < len(self._others):
            return {}
        alike = [measures.mean_cosine(each, others) for each, others in zip(rows, known)]
        return {"APART": fidelity - sum(alike) / len(alike)}


def _class_pictures(concepts: Sequence[Concept], prompt: str) -> list[Picture]:
    """List the pictures of a class, each once, whichever subjects share them."""
    found = {each.sha256: each for concept in concepts if concept.class_prompt == prompt
             for each in concept.class_pictures}  # fmt: skip
    return list(found.values())


def _alike(rows: Array) -> float:
    """Return how much a subject's own pictures resemble each other; a single one, itself."""
    within = measures.mean_cosine_within(rows)
    return 1.0 if within is None else within
