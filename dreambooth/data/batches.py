"""The examples of each micro-batch: a function of the seed, the update and the process."""

from __future__ import annotations

import math
from array import array
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from dreambooth.data import randomness, transforms
from dreambooth.data.concepts import Example, MicroBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.config.learning_sections import OptimizerSettings
    from dreambooth.config.sections import PictureSettings
    from dreambooth.data.concepts import Concept, Picture, View
    from dreambooth.system.types import Key, Size


class Rotation:
    """An endless sequence in which each of some things has its turns in the share of its weight.

    At each turn all are credited with their weights, and the one with the most credit pays for the turn. So the turns
    of each are spread evenly, and their number is that of its share to within a few.
    """

    def __init__(self, weights: Sequence[Fraction]) -> None:
        scale = math.lcm(*(weight.denominator for weight in weights))
        self._weights = [int(weight * scale) for weight in weights]  # whole numbers, so that no turn is rounded
        self._credits, self._counts = [0] * len(weights), [0] * len(weights)
        self._whose, self._which = array("q"), array("q")  # the turns so far: whose, and which of its own

    def turn(self, index: int) -> tuple[int, int]:
        """Return (which thing has turn `index`, how many it had before)."""
        if len(self._weights) == 1:
            return 0, index
        total = sum(self._weights)
        while len(self._whose) <= index:
            self._credits = [credit + weight for credit, weight in zip(self._credits, self._weights)]
            chosen = self._credits.index(max(self._credits))  # the first of equal ones
            self._credits[chosen] -= total
            self._whose.append(chosen)
            self._which.append(self._counts[chosen])
            self._counts[chosen] += 1
        return self._whose[index], self._which[index]


class _Group(NamedTuple):
    """Pictures in an order of their own: those of one subject at one size, or of one class."""

    order: str  # the purpose of its random numbers
    pictures: Sequence[int]
    weight: Fraction


class _Groups:
    """Groups that take turns by their weights."""

    def __init__(self, groups: Sequence[_Group]) -> None:
        self.groups = groups
        self.weight = sum((group.weight for group in groups), Fraction(0))
        self.turns = Rotation([group.weight for group in groups])

    def __bool__(self) -> bool:
        return bool(self.groups)


class Batches:
    """All pictures and prompts of a run, and the endless sequence of examples that is drawn from them.

    `sizes` are those that the pictures may have, of which each has the one nearest to its shape. An update takes all
    its examples at one size, so it is the same however it is split.
    """

    def __init__(
        self,
        concepts: Sequence[Concept],
        optimizer: OptimizerSettings,
        pictures: PictureSettings,
        seed: int,
        rank: int,
        processes: int,
        caption_dropout: float = 0.0,
        sizes: Sequence[Size] = (),
    ) -> None:
        self.pictures: list[Picture] = []
        self.views: list[tuple[View, ...]] = []  # of each picture, of each of its sizes
        self.prompts: list[str] = []  # the distinct ones
        self._numbers: dict[str, int] = {}  # of the prompts
        self._prompt_of: list[int] = []  # of each picture
        self._optimizer, self._settings = optimizer, pictures
        self._seed, self._rank, self._processes = seed, rank, processes
        self._sizes = sizes or (pictures.size,)
        self._shared_views: dict[tuple[Size, ...], tuple[View, ...]] = {}
        near = {self._nearest(picture) for concept in concepts for picture in concept.pictures}
        self.sizes = [size for size in self._sizes if size in near]  # those that pictures of the subjects have
        self._subjects = [_Groups(groups) for groups in self._add_subjects(concepts)]
        self._classes = _Groups(self._add_classes(concepts))
        self._turns_of_sizes = Rotation([groups.weight for groups in self._subjects])
        self._dropout = caption_dropout
        self._empty = self._number("") if caption_dropout else None  # of the prompt in the place of a dropped one
        kinds = 2 if self._classes else 1
        self.pictures_at_once = optimizer.train_batch_size * kinds  # in a micro-batch of this process
        self.pictures_per_update = optimizer.global_batch(processes) * kinds

    def _add_subjects(self, concepts: Sequence[Concept]) -> list[list[_Group]]:
        """Add the subjects' pictures; return their groups for each size."""
        found: list[list[_Group]] = [[] for _ in self.sizes]
        for number, concept in enumerate(concepts):
            added = self._add(concept.pictures, concept.prompt, None)
            for size, groups in zip(self.sizes, found):
                own = [index for index in added if self.views[index][0].size == size]
                order = "order of kind 0" + (f" of subject {number}" if number else "")
                order += f" at {size[1]} x {size[0]}" if len(self.sizes) > 1 else ""
                weight = Fraction(str(concept.weight)) * Fraction(len(own), len(added))
                groups += [_Group(order, own, weight)] if own else []
        return found

    def _add_classes(self, concepts: Sequence[Concept]) -> list[_Group]:
        """Add the classes' pictures, at every size of a subject's; return their groups. Subjects may share a class."""
        found: dict[tuple[str, tuple[Picture, ...]], _Group] = {}
        for concept in concepts:
            if not concept.class_pictures or not concept.class_prompt:
                continue
            key, weight = (concept.class_prompt, concept.class_pictures), Fraction(str(concept.weight))
            if key in found:
                found[key] = found[key]._replace(weight=found[key].weight + weight)
                continue
            order = "order of kind 1" + (f" of class {len(found)}" if found else "")
            found[key] = _Group(order, self._add(concept.class_pictures, concept.class_prompt, self.sizes), weight)
        return list(found.values())

    @property
    def has_masks(self) -> bool:
        """Check whether not all places of all pictures count."""
        padded = any(view.inside for views in self.views for view in views)
        return padded or any(picture.mask for picture in self.pictures)

    @property
    def unmasked_weight(self) -> float:
        """The weight of what a mask leaves out."""
        return self._settings.unmasked_weight

    def _add(self, pictures: Sequence[Picture], prompt: str, sizes: Sequence[Size] | None) -> range:
        """Add pictures with their captions, or else this prompt, at these sizes or else the nearest; return indices."""
        first = len(self.pictures)
        self.pictures += pictures
        self.views += [self._views(picture, sizes or [self._nearest(picture)]) for picture in pictures]
        self._prompt_of += [self._number(picture.caption or prompt) for picture in pictures]
        return range(first, len(self.pictures))

    def _nearest(self, picture: Picture) -> Size:
        return transforms.nearest(picture.size, self._sizes)

    def _views(self, picture: Picture, sizes: Sequence[Size]) -> tuple[View, ...]:
        """List the views of a picture; many pictures of one size share theirs."""
        key = picture.size, *sizes
        if key not in self._shared_views:
            views = (transforms.views(picture.size, self._settings, size) for size in sizes)
            self._shared_views[key] = tuple(view for several in views for view in several)
        return self._shared_views[key]

    def views_at(self, picture: int, size: Size) -> list[View]:
        """List the views of a picture at one of its sizes."""
        return [view for view in self.views[picture] if view.size == size]

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
        kinds = (0, 1) if self._classes else (0,)
        examples = [self._example((update, slot, kind)) for kind in kinds for slot in range(first, first + size)]
        return MicroBatch(tuple(examples), prior=size if self._classes else 0)

    def _example(self, key: Key) -> Example:
        update, slot, kind = key
        number, turn = self._turns_of_sizes.turn(update)
        subjects = self._subjects[number]
        per_update = self._optimizer.global_batch(self._processes)
        if kind == 0:
            whose, index = subjects.turns.turn(turn * per_update + slot)
            group = subjects.groups[whose]
        else:  # the classes go on whatever size an update has
            whose, index = self._classes.turns.turn(update * per_update + slot)
            group = self._classes.groups[whose]
        picture = group.pictures[randomness.pick(self._seed, group.order, len(group.pictures), index)]
        prompt = self._prompt_of[picture]
        if self._empty is not None and kind == 0 and self._is_dropped(key):
            prompt = self._empty
        return Example(key, picture, prompt, self._view(picture, self.sizes[number], key))

    def _view(self, picture: int, size: Size, key: Key) -> View:
        """Choose a view of a picture at a size; each place has its mirror image behind it."""
        views = self.views_at(picture, size)
        flips = 2 if self._settings.random_flip else 1
        place = flip = 0
        if len(views) > flips:
            [place] = randomness.integers(self._seed, "crop", [key], len(views) // flips)
        if flips > 1:
            [flip] = randomness.integers(self._seed, "flip", [key], flips)
        view = views[place * flips + flip]
        if strength := self._settings.color_jitter:
            drawn = randomness.stream(self._seed, "colours", *key).uniform(1 - strength, 1 + strength, 3)
            view = view._replace(colours=tuple(drawn.tolist()))
        return view

    def _is_dropped(self, key: Key) -> bool:
        """Choose, for an example of a subject, whether it has the empty prompt."""
        return randomness.uniform(self._seed, "caption dropout", key) < self._dropout
