"""The figures of a model's pictures of a subject: those of the DreamBooth paper, and two that a drawn world has.

"Scene right" is the share of pictures with the scene of their prompt. "Subject shown" is the share of pictures with the
subject: its class and colour, a mark and a hat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth.config.commands import DrawSettings
from dreambooth.data import rare_words
from dreambooth.drawing import measures
from dreambooth.drawing.instruments.clip import Clip
from dreambooth.drawing.measures import Request
from dreambooth.models import loading
from miniworld import judge, paths, photograph, world

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL import Image

    from dreambooth.models.family.base import Family
    from dreambooth.system.types import Array

    Pictures = Sequence[Image.Image]
    Figures = dict[str, float | None]

COUNT, CLASS_COUNT = 4, 16  # pictures of a prompt, and of the class prompt


def prompts(words: str) -> list[str]:
    """Return the prompts for a subject, named by words such as "sks dog", in the scenes without training pictures."""
    return [f"a photo of {words} {scene}" for scene in world.UNSEEN]


class Evaluator:
    """The embedded CLIP and detector, and their figures of a model's pictures.

    `words` name the subjects that are not called sks and their class. `first` is the number of the first picture drawn
    of a prompt: others come from other noise. `count` is how many are drawn of each prompt with a scene, and
    `guidance` the weight of the prompt.
    """

    def __init__(
        self,
        words: Mapping[str, str] | None = None,
        first: int = 0,
        count: int = COUNT,
        guidance: float = DrawSettings.guidance,
    ) -> None:
        from miniworld.detector import Detector

        self._words, self._first, self._count, self._guidance = words or {}, first, count, guidance
        self.clip, self.detector = Clip(str(paths.CLIP), flag="CLIP"), Detector.load()

    def words(self, subject: str) -> str:
        """Return the words that name a subject."""
        return self._words.get(subject, f"sks {subject}")

    def photographs(self, subject: str) -> list[Pictures]:
        """Return a subject's own pictures in each of the scenes without training pictures."""
        first = photograph.FIRST_MEASURED
        numbers = range(first, first + COUNT)
        return [[world.photograph(subject, scene, 0, number) for number in numbers] for scene in world.UNSEEN]

    def figures(self, subject: str, groups: Sequence[Pictures], of_class: Pictures) -> Figures:
        """Measure a model by its pictures: a group for each scene, and those of the class prompt."""
        vectors, requests, texts = self._references(subject)
        rows = [self.clip.encode_pictures(group) for group in groups]
        return {
            **measures.measure_model(rows, self.clip.encode_pictures(of_class), vectors, requests, texts),
            **self._figures_of_world(subject, groups),
            "class shows subject": self._share_shown(subject, of_class),
        }

    def figures_of_photographs(self, subject: str) -> Figures:
        """Measure a subject's own pictures: the best figures that a model can reach."""
        vectors, requests, texts = self._references(subject)
        return {
            **measures.measure_subject(vectors, requests, texts),
            **self._figures_of_world(subject, self.photographs(subject)),
            "class shows subject": None,
        }

    def draw(self, family: Family, subject: str) -> tuple[list[Pictures], Pictures]:
        """Draw a group of pictures for each scene, and pictures of the class prompt."""
        first, count = self._first, self._count
        requests = [(prompt, first + number) for prompt in prompts(self.words(subject)) for number in range(count)]
        requests += [(f"a photo of a {world.LOOKS[subject].kind}", first + number) for number in range(CLASS_COUNT)]
        pictures = judge.draw(family, requests, guidance=self._guidance)
        split = count * len(world.UNSEEN)
        return [pictures[first : first + count] for first in range(0, split, count)], pictures[split:]

    def measure(self, folder: Path, subject: str) -> Figures:
        """Draw with the model of a folder, and measure its pictures."""
        return self.figures(subject, *self.draw(loading.load_family(loading.Source(str(folder))), subject))

    def share_of_training_scene(self, folder: Path, subject: str) -> float:
        """Return the share of pictures of the prompt without a scene that have the one of ONE_SCENE's training."""
        family = loading.load_family(loading.Source(str(folder)))
        requests = [(f"a photo of {self.words(subject)}", number) for number in range(CLASS_COUNT)]
        pictures = judge.draw(family, requests, guidance=self._guidance)
        found = judge.classify_scenes(self.clip, pictures, [world.LOOKS[subject].kind] * len(pictures))
        return judge.accuracy(found, [world.SEEN[0]] * len(pictures))

    def _references(self, subject: str) -> tuple[Array, list[Request], Array]:
        """Return the vectors of a subject's own pictures, the prompts with their pictures, and the texts' vectors."""
        vectors = self.clip.encode_pictures(_flat(self.photographs(subject)))
        requests = [
            Request(prompt, list(range(index * COUNT, (index + 1) * COUNT)))
            for index, prompt in enumerate(prompts(self.words(subject)))
        ]
        identifier = self.words(subject).split()[0]
        texts = [rare_words.without(each.prompt, identifier) for each in requests]
        return vectors, requests, self.clip.encode_prompts(texts)

    def _figures_of_world(self, subject: str, groups: Sequence[Pictures]) -> dict[str, float]:
        pictures = _flat(groups)
        scenes = [scene for scene, group in zip(world.UNSEEN, groups) for _ in group]
        found = judge.classify_scenes(self.clip, pictures, [world.LOOKS[subject].kind] * len(pictures))
        return {"scene right": judge.accuracy(found, scenes), "subject shown": self._share_shown(subject, pictures)}

    def _share_shown(self, subject: str, pictures: Pictures) -> float:
        """Return the share of pictures that show the subject."""
        return float((self.detector.subject_probabilities(pictures, world.LOOKS[subject]) > 0.5).mean())


def _flat(groups: Sequence[Pictures]) -> Pictures:
    return [picture for group in groups for picture in group]
