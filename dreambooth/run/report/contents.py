"""What a run has left in its folder, read for its page: figures, pictures over the updates, and training pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from PIL import Image

from dreambooth.config.config import Config
from dreambooth.data import picture_files, surveys, transforms
from dreambooth.drawing import data_sheets, thumbnails
from dreambooth.drawing.thumbnails import Thumbnail
from dreambooth.run import output_folder
from dreambooth.run.report import progress
from dreambooth.run.report.progress import Row
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dreambooth.config.sections import PictureSettings
    from dreambooth.data.concepts import Concept, Picture

State = Literal["running", "stopped", "finished"]
SCORE = "score"

_SAMPLE = re.compile(r"(class-)?step-(\d+)-(\d+)-(\d+)\.png")
_MOST_TRAINING, _MOST_CLASS, _MOST_BESIDE = 30, 12, 4  # pictures of a subject's data, of a class, beside drawings
_SIDE_OF_DATA = 192
# the longer sides of the drawings by how many there are; of more, some of the steps are left out
_SIDES = {24: 512, 80: 384, 240: 256}
_MOST_SAMPLES = max(_SIDES)


class Sample(NamedTuple):
    """A picture that was drawn on the way."""

    step: int
    prompt: int
    number: int
    path: Path


@dataclass(frozen=True)
class Series:
    """The pictures of one prompt: a row for each of its seeds, over the steps."""

    prompt: str
    steps: tuple[int, ...]
    rows: tuple[tuple[Thumbnail | None, ...], ...]
    labels: tuple[str, ...]  # of the rows

    def chosen_step(self, best: int | None) -> int:
        """Return the step to show alone: the best, where it was drawn, or else the last."""
        return best if best in self.steps and best is not None else self.steps[-1]

    def at(self, step: int) -> list[Thumbnail]:
        """Return the pictures of a step."""
        place = self.steps.index(step)
        return [copy for row in self.rows if (copy := row[place]) is not None]


class DataRow(NamedTuple):
    """A training picture as it is and as the network sees it."""

    name: str
    fitted: str
    caption: str
    has_mask: bool
    pictures: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class Subject:
    """A subject, and its training pictures."""

    prompt: str
    rows: tuple[DataRow, ...] = ()
    beside: tuple[Thumbnail, ...] = ()
    left_out: int = 0


@dataclass(frozen=True)
class OfClass:
    """A class: pictures of its prompt by the base model, and after a step of the run."""

    prompt: str
    before: tuple[Thumbnail, ...]
    after: tuple[Thumbnail, ...]
    step: int


@dataclass(frozen=True)
class Run:
    """All that a page shows of a run."""

    folder: Path
    record: Mapping[str, Any]
    state: State
    step: int
    rows: tuple[Row, ...]
    series: tuple[Series, ...] = ()
    steps_left_out: int = 0
    subjects: tuple[Subject, ...] = ()
    classes: tuple[OfClass, ...] = ()
    problem: str = ""  # why there are no training pictures
    name: str = ""

    @property
    def planned(self) -> int:
        """The updates that were asked for; the record of a result has those that were made."""
        asked = self.record["flags"].get("max_train_steps")
        return max(self.step, int(self.record["steps"]), asked if isinstance(asked, int) else 0)

    @property
    def validations(self) -> dict[int, dict[str, float]]:
        """The figures of the validations by step."""
        found = {row.step: row.figures for row in self.rows if row.group == "validation"}
        for each in self.record.get("validations") or ():  # of a version without the file of figures
            figures = {name: value for name, value in each.items() if name != "step" and value is not None}
            found.setdefault(int(each["step"]), figures)
        return dict(sorted(found.items()))

    @property
    def best_step(self) -> int | None:
        """The step whose weights are saved, or would be; None where the last ones are."""
        if saved := self.record.get("saved_step"):
            return int(saved)
        if not self.record["flags"].get("keep_best"):
            return None
        scored = [(each[SCORE], -step) for step, each in self.validations.items() if step and SCORE in each]
        return -max(scored)[1] if scored else None

    def figures(self, group: str, name: str) -> list[tuple[int, float]]:
        """Return a figure over the steps."""
        if group == "validation":
            return [(step, found[name]) for step, found in self.validations.items() if name in found]
        return [(row.step, row.figures[name]) for row in self.rows if row.group == group and name in row.figures]

    def names(self, group: str) -> list[str]:
        """List the figures that a group has."""
        if group == "validation":
            return list(dict.fromkeys(name for found in self.validations.values() for name in found))
        return list(dict.fromkeys(name for row in self.rows if row.group == group for name in row.figures))


def of_folder(
    folder: Path,
    record: Mapping[str, Any],
    state: State,
    step: int,
    concepts: Sequence[Concept] | None = None,
    name: str = "",
    runs: int = 1,
) -> Run:
    """Read what a run has left in its folder.

    `concepts` are its subjects, where they are known; `name` is that of the folder, unless the page has others of that
    name; `runs` is the number of runs that share the page.
    """
    rows = tuple(row for row in progress.read(folder) if row.step <= step)
    known = {row.step for row in rows if row.group == "validation"}
    samples = [each for each in _samples(folder) if each.step <= step and (each.step in known or not known)]
    of_class = [each for each in samples if each.path.name.startswith(output_folder.OF_CLASS)]
    drawn = [each for each in samples if each not in set(of_class)]
    steps, left_out = _chosen_steps(drawn, record.get("saved_step"), _MOST_SAMPLES // runs)
    problem, shown = "", None
    try:
        settings = Config.from_flat(**record["flags"])
        shown = settings.pictures
        if concepts is None:
            concepts = surveys.survey(settings.concepts, settings.pictures).concepts
    except (BadInput, TypeError, KeyError, ValueError, OSError) as error:  # moved pictures, or another version's flags
        problem = str(error)
    subjects = [_subject(each, shown, record) for each in concepts or () if shown is not None]
    return Run(
        folder,
        record,
        state,
        step,
        rows,
        tuple(_series([each for each in drawn if each.step in steps], runs)),
        left_out,
        tuple(subjects) or tuple(Subject(str(each["prompt"])) for each in record["concepts"]),
        tuple(_classes(of_class, concepts, record)),
        problem,
        name or folder.resolve().name or str(folder),
    )


def _samples(folder: Path) -> list[Sample]:
    """List the pictures that a run drew on the way."""
    found = []
    for path in (folder / output_folder.SAMPLES).glob("*step-*.png"):
        if named := _SAMPLE.fullmatch(path.name):
            step, prompt, number = map(int, named.groups()[1:])
            found.append(Sample(step, prompt, number, path))
    return sorted(found)


def _chosen_steps(samples: Sequence[Sample], saved: int | None, room: int) -> tuple[set[int], int]:
    """Choose as many steps as a page can show, over all of the run; return them, and how many are left out."""
    steps = sorted({each.step for each in samples})
    each_step = max(1, len(samples) // max(1, len(steps)))
    most = max(2, room // each_step)
    if len(steps) <= most:
        return set(steps), 0
    chosen = {steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)}
    if saved in steps:
        chosen.add(saved)
    return chosen, len(steps) - len(chosen)


def _series(samples: Sequence[Sample], runs: int) -> Iterable[Series]:
    side = next((side for most, side in _SIDES.items() if len(samples) * runs <= most), min(_SIDES.values()))
    steps = tuple(sorted({each.step for each in samples}))
    for prompt in sorted({each.prompt for each in samples}):
        own = {(each.number, each.step): each.path for each in samples if each.prompt == prompt}
        numbers = sorted({number for number, _ in own})
        rows = tuple(
            tuple(thumbnails.of_file(own[number, step], side) if (number, step) in own else None for step in steps)
            for number in numbers
        )
        text = _text_of(own[max(own, key=lambda key: key[1])], "prompt")
        yield Series(text, steps, rows, tuple(map(str, numbers)))


def _text_of(path: Path, name: str) -> str:
    """Return a text that is in a picture; without one, nothing."""
    try:
        with Image.open(path) as picture:
            return str(picture.info.get(name, ""))
    except Exception:  # Pillow raises a dozen kinds
        return ""


def _subject(concept: Concept, shown: PictureSettings, record: Mapping[str, Any]) -> Subject:
    """Show the training pictures of a subject, of which a page has the first."""
    sizes = [(int(height), int(width)) for height, width in record.get("sizes") or [shown.size]]
    rows = []
    for picture in concept.pictures[:_MOST_TRAINING]:
        try:
            rows.append(_data_row(picture, shown, sizes))
        except Exception:  # a picture that has changed since; Pillow raises a dozen kinds
            continue
    beside = [thumbnails.of_file(each.path, 384) for each in concept.pictures[:_MOST_BESIDE]]
    return Subject(
        concept.prompt,
        tuple(rows),
        tuple(each for each in beside if each is not None),
        len(concept.pictures) - len(rows),
    )


def _data_row(picture: Picture, shown: PictureSettings, sizes: Sequence[tuple[int, int]]) -> DataRow:
    views = transforms.views(picture.size, shown, transforms.nearest(picture.size, sizes))
    image, mask = picture_files.open_picture(picture.path), picture_files.open_mask(picture)
    # the first view alone: the others are the same mirrored, or at other places
    weights = transforms.to_weights(mask, views[0], shown.unmasked_weight)
    pictures = (data_sheets.framed(image, views), data_sheets.seen(image, views[0], weights))
    copies = tuple(thumbnails.of(each, _SIDE_OF_DATA) for each in pictures)
    return DataRow(picture.path.name, transforms.in_words(views[0]), picture.caption or "", mask is not None, copies)


def _classes(
    samples: Sequence[Sample], concepts: Sequence[Concept] | None, record: Mapping[str, Any]
) -> Iterable[OfClass]:
    """Show each class before and after: of the base's pictures, those of step 0, or else those to train with."""
    prompts = list(dict.fromkeys(each["class_prompt"] for each in record["concepts"] if each.get("class_prompt")))
    for number, prompt in enumerate(prompts):
        own = [each for each in samples if each.prompt == number]
        last = max((each.step for each in own if each.step), default=0)
        before = [each.path for each in own if each.step == 0] or _class_files(prompt, concepts, record)
        after = [each.path for each in own if last and each.step == last]
        copies = [
            [copy for path in paths[:_MOST_CLASS] if (copy := thumbnails.of_file(path, 256))]
            for paths in (before, after)
        ]
        if any(copies):
            yield OfClass(str(prompt), tuple(copies[0]), tuple(copies[1]), last)


def _class_files(prompt: str, concepts: Sequence[Concept] | None, record: Mapping[str, Any]) -> list[Path]:
    """Find the first class pictures of a run; none where the class is preserved without."""
    flags = record["flags"]
    if not flags.get("with_prior_preservation"):
        return []
    for concept in concepts or ():
        if concept.class_prompt == prompt and concept.class_pictures:
            return [each.path for each in concept.class_pictures[:_MOST_CLASS]]
    found = [each for each in record["concepts"] if each.get("class_prompt") == prompt]
    names = [str(each["name"]) for each in found[0].get("class_pictures") or ()][:_MOST_CLASS]
    folders = [flags.get("class_data_dir"), *(each.get("class_data_dir") for each in flags.get("concepts") or ())]
    places = [Path(each) for each in folders if each and Path(each).is_dir()]
    paths = [next((path for place in places for path in place.rglob(name)), None) for name in names]
    return [path for path in paths if path is not None]
