"""The settings of the subjects and their classes: of one by flags, or of several by a list."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from dreambooth.config.fields import Section, flag
from dreambooth.config.sections import NEW_WORD
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CaptionSource = Literal["off", "txt", "jsonl"]

_MOST = 1_000_000  # of weights, repeats and class pictures
_OF_A_SUBJECT = ("instance_data_dir", "instance_prompt", "subject")  # flags that a list has in their place


BY_FLAG, BY_LIST = 'give it, as --subject "sks dog"', "give it in the list, as `subject: sks dog`"


def fill(text: str, subject: str | None, where: str, remedy: str = BY_FLAG) -> str:
    """Put the subject in the place of each {} in a prompt or caption.

    Where there is none, the error begins with `where` and ends with the remedy.
    """
    if "{}" in text and not (subject or "").strip():
        raise BadInput(f"{where}: {{}} stands for the subject; {remedy}")
    return text.replace("{}", (subject or "").strip())


@dataclass(frozen=True)
class ClassSettings:
    """A class of subjects, and its pictures."""

    prompt: str
    folder: str
    count: int
    negative_prompt: str | None = None
    captions: CaptionSource = "off"  # of own pictures
    prompts: tuple[str, ...] = ()  # of the drawn pictures, in turn, where they have others than the class's

    def prompt_of(self, number: int) -> str:
        """Return the prompt of a drawn picture."""
        return self.prompts[number % len(self.prompts)] if self.prompts else self.prompt


# fmt: off
@dataclass(frozen=True)
class SubjectSettings(Section, title="a subject of --concepts"):
    """One subject of several, and its class; what it lacks of the class has the flags' values."""

    instance_data_dir: str = flag("the folder with the subject's pictures", required=True)
    instance_prompt: str = flag("the prompt that names the subject by a rare word", required=True)
    subject: str | None = flag("the rare word and the class, for which {} stands in the prompt and in captions")
    class_prompt: str | None = flag("the prompt of its class")
    class_data_dir: str | None = flag("the folder with pictures of its class")
    num_class_images: int | None = flag("the number of its class pictures", type=int, least=1, below=_MOST)
    mask_dir: str | None = flag("the folder with masks for its pictures")
    repeats: int = flag("how often an epoch has each of its pictures", 1, least=1, below=_MOST)
    weight: float = flag("the weight of its examples among those of all subjects", 1.0, least=1 / _MOST, below=_MOST)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        fill(self.instance_prompt, self.subject, f"instance_prompt {self.instance_prompt}", BY_LIST)
        _check_class_prompt(self.class_prompt)

    @functools.cached_property
    def prompt(self) -> str:
        """The prompt with the subject in the place of {}."""
        return fill(self.instance_prompt, self.subject, "instance_prompt")

    @property
    def new_words(self) -> tuple[str, ...]:
        """The new words of the prompt, each once."""
        return tuple(dict.fromkeys(NEW_WORD.findall(self.prompt)))


@dataclass(frozen=True)
class ConceptSettings(Section, title="subject and class"):
    """The subject, and the class that it belongs to; or several."""

    instance_data_dir: str | None = flag(
        "the folder with the subject's pictures (required, unless --concepts is given)")
    instance_prompt: str | None = flag(
        'the prompt that names the subject by a rare word, "a photo of sks dog" (required, unless --concepts is given)',
        course=True)
    concepts: tuple[SubjectSettings, ...] | None = flag(
        "several subjects: a YAML, TOML or JSON file with a list of instance_data_dir, instance_prompt, class_prompt,"
        " class_data_dir, num_class_images, mask_dir, subject, repeats, weight", type=str, metavar="FILE", course=True)
    subject: str | None = flag(
        'the rare word and the class, "sks dog", for which {} stands in prompts and captions')
    captions: CaptionSource | None = flag(
        "a prompt for each picture: from NAME.txt beside it, from metadata.jsonl, or off (default: where every picture"
        " has one)", choices=get_args(CaptionSource))
    caption_dropout: float = flag(
        "the share of the subject's examples that have the empty prompt", 0.0, course=True, least=0, below=1)
    with_prior_preservation: bool = flag(
        "also train on pictures of the class that the base model drew, so that the class is kept", False,
        course=True)
    prior_by_prediction: bool = flag(
        "keep the class at what the model predicted for --class_prompt before the training; without"
        " --with_prior_preservation on its own drafts, so that no class pictures are needed", False, course=True)
    class_data_dir: str | None = flag(
        "the folder with pictures of the class; missing ones are drawn before training, into a folder below it")
    class_prompt: str | None = flag(
        'the prompt of the class, "a photo of a dog"', course=True)
    class_negative_prompt: str | None = flag(
        "what the drawn class pictures are to avoid")
    class_captions: CaptionSource = flag(
        "a prompt for each picture of one's own in --class_data_dir: from NAME.txt beside it, from metadata.jsonl, or"
        " off", "off", course=True, choices=get_args(CaptionSource))
    class_prompts_from_captions: bool = flag(
        "draw the class pictures of the captions, with the rare word taken out, in turn", False, course=True)
    num_class_images: int = flag(
        "the number of class pictures to train on", 100, course=True, least=1, below=_MOST)
# fmt: on

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _OF_A_SUBJECT:
            value = getattr(self, name)
            if self.concepts is not None and value is not None:
                raise BadInput(f"--{name} can't be combined with --concepts, whose list has it for each subject")
            if self.concepts is None and name != "subject" and not (value or "").strip():
                raise BadInput(f"--{name} is required")
        _check_class_prompt(self.class_prompt)
        if self.class_prompts_from_captions and not self.with_prior_preservation:
            raise BadInput("--class_prompts_from_captions needs --with_prior_preservation")
        if self.class_prompts_from_captions and self.captions == "off":
            raise BadInput("--class_prompts_from_captions can't be combined with --captions off")
        if self.concepts is not None:
            self._check_several(self.concepts)

    @property
    def new_words(self) -> tuple[str, ...]:
        """The new words of the prompts, each once."""
        return tuple(dict.fromkeys(word for each in self.subjects for word in each.new_words))

    def _check_several(self, concepts: tuple[SubjectSettings, ...]) -> None:
        if not concepts:
            raise BadInput("--concepts: its list is empty")
        shown = {
            "prompt": [" ".join(each.prompt.split()) for each in concepts],
            "folder": [str(Path(each.instance_data_dir).resolve()) for each in concepts],
        }
        for what, values in shown.items():
            if twice := [value for value, count in Counter(values).items() if count > 1]:
                raise BadInput(f"--concepts: two subjects have the same {what}, {twice[0]}")

    @property
    def keeps_class(self) -> bool:
        """Check whether there is a loss of the class."""
        return self.with_prior_preservation or self.prior_by_prediction

    @functools.cached_property
    def subjects(self) -> tuple[SubjectSettings, ...]:
        """The subjects, each with what it has of its class, and with masks of its own alone."""
        several = self.concepts or (
            SubjectSettings(self.instance_data_dir or "", self.instance_prompt or "", self.subject),
        )
        shared = ("class_prompt", "class_data_dir", "num_class_images")
        return tuple(
            dataclasses.replace(each, **{name: getattr(each, name) or getattr(self, name) for name in shared})
            for each in several
        )

    @functools.cached_property
    def classes(self) -> tuple[ClassSettings, ...]:
        """The classes of the subjects, in their order; subjects of one class share its pictures."""
        if not self.with_prior_preservation:
            return ()
        found: dict[tuple[str, Path], ClassSettings] = {}
        for each in self.subjects:
            key, count = _class_key(each), each.num_class_images or 0
            if key not in found:
                shared = self.class_negative_prompt, self.class_captions
                found[key] = ClassSettings(each.class_prompt or "", each.class_data_dir or "", count, *shared)
            found[key] = dataclasses.replace(found[key], count=max(found[key].count, count))
        return tuple(found.values())

    @functools.cached_property
    def _class_numbers(self) -> dict[tuple[str, Path], int]:
        keys = dict.fromkeys(map(_class_key, self.subjects))
        return {key: number for number, key in enumerate(keys)} if self.with_prior_preservation else {}

    def class_of(self, subject: SubjectSettings) -> int | None:
        """Return the number of a subject's class; None without prior preservation."""
        return self._class_numbers.get(_class_key(subject))

    def epoch(self, pictures: Iterable[int]) -> int:
        """Count the examples in one epoch, which covers the longest of the lists of pictures, in its share of them.

        `pictures` are the numbers of pictures of each subject.
        """
        total = sum(each.weight for each in self.subjects)
        lengths = [
            each.repeats * count * (total / each.weight) for each, count in zip(self.subjects, pictures, strict=True)
        ]
        weights = [0.0] * len(self.classes)
        for each in self.subjects if weights else ():
            weights[self.class_of(each) or 0] += each.weight
        lengths += [each.count * (total / weight) for each, weight in zip(self.classes, weights)]
        return math.ceil(round(max(lengths), 6))

    def course(self) -> Mapping[str, Any]:
        """List what decides on an update, by flag."""
        of_class = ["class_prompt"] if self.keeps_class else []
        of_class += ["num_class_images"] if self.with_prior_preservation else []
        listed = [
            {"instance_prompt": each.prompt, **{name: getattr(each, name) for name in of_class}}
            for each in self.subjects
        ]
        if len(listed) == 1:
            return listed[0]
        return {"concepts": [{**facts, "weight": each.weight} for facts, each in zip(listed, self.subjects)]}


def _class_key(subject: SubjectSettings) -> tuple[str, Path]:
    """Return what subjects of one class have in common; a folder may be spelled in several ways."""
    return subject.class_prompt or "", Path(subject.class_data_dir or "").resolve()


def _check_class_prompt(prompt: str | None) -> None:
    if "{}" in (prompt or ""):
        raise BadInput(f"--class_prompt {prompt}: {{}} stands for a subject; name the class")
