"""The settings of the subjects and their classes: of one by flags, or of several by a list."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from dreambooth.config.fields import Section, flag
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CaptionSource = Literal["off", "txt", "jsonl"]

_OF_A_SUBJECT = ("instance_data_dir", "instance_prompt", "subject")  # flags that a list has in their place


def fill(text: str, subject: str | None, where: str) -> str:
    """Put the subject in the place of each {} in a prompt or caption; `where` begins the error where there is none."""
    if "{}" in text and not (subject or "").strip():
        raise BadInput(f'{where}: {{}} stands for the subject; give it, as --subject "sks dog"')
    return text.replace("{}", (subject or "").strip())


@dataclass(frozen=True)
class ClassSettings:
    """A class of subjects, and its pictures."""

    prompt: str
    folder: str
    count: int
    negative_prompt: str | None = None
    captions: CaptionSource | None = None  # "off": own pictures have none
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
    num_class_images: int | None = flag("the number of its class pictures", type=int, least=1)
    mask_dir: str | None = flag("the folder with masks for its pictures")
    repeats: int = flag("how often an epoch has each of its pictures", 1, least=1)
    weight: float = flag("the weight of its examples among those of all subjects", 1.0, above=0)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        fill(self.instance_prompt, self.subject, f"instance_prompt {self.instance_prompt}")

    @property
    def prompt(self) -> str:
        """The prompt with the subject in the place of {}."""
        return fill(self.instance_prompt, self.subject, "instance_prompt")


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
    class_data_dir: str | None = flag(
        "the folder with pictures of the class; missing ones are drawn before training, into a folder below it")
    class_prompt: str | None = flag(
        'the prompt of the class, "a photo of a dog"', course=True)
    class_negative_prompt: str | None = flag(
        "what the drawn class pictures are to avoid")
    class_prompts_from_captions: bool = flag(
        "draw the class pictures of the captions, with the rare word taken out, in turn", False, course=True)
    num_class_images: int = flag(
        "the number of class pictures to train on", 100, course=True, least=1)
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
        if self.class_prompts_from_captions and not self.with_prior_preservation:
            raise BadInput("--class_prompts_from_captions needs --with_prior_preservation")
        if self.class_prompts_from_captions and self.captions == "off":
            raise BadInput("--class_prompts_from_captions can't be combined with --captions off")
        if self.concepts is not None:
            self._check_several(self.concepts)

    def _check_several(self, concepts: tuple[SubjectSettings, ...]) -> None:
        if not concepts:
            raise BadInput("--concepts: its list is empty")
        for name, what in (("instance_prompt", "prompt"), ("instance_data_dir", "folder")):
            values = [getattr(each, name) for each in concepts]
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise BadInput(f"--concepts: two subjects have the same {what}, {name} {twice[0]}")

    @property
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

    @property
    def classes(self) -> tuple[ClassSettings, ...]:
        """The classes of the subjects, in their order; subjects of one class share its pictures."""
        if not self.with_prior_preservation:
            return ()
        found: dict[tuple[str, str], int] = {}
        for each in self.subjects:
            key, count = self._class_key(each), each.num_class_images or 0
            found[key] = max(found.get(key, 0), count)
        shared = self.class_negative_prompt, self.captions
        return tuple(ClassSettings(*key, count, *shared) for key, count in found.items())

    def class_of(self, subject: SubjectSettings) -> int | None:
        """Return the number of a subject's class; None without prior preservation."""
        keys = [(each.prompt, each.folder) for each in self.classes]
        return keys.index(self._class_key(subject)) if keys else None

    def _class_key(self, subject: SubjectSettings) -> tuple[str, str]:
        return subject.class_prompt or "", subject.class_data_dir or ""

    def epoch(self, pictures: Iterable[int]) -> int:
        """Count the examples in one epoch, which covers the longest of the lists of pictures, in its share of them.

        `pictures` are the numbers of pictures of each subject.
        """
        total = sum(each.weight for each in self.subjects)
        lengths = [
            each.repeats * count * (total / each.weight) for each, count in zip(self.subjects, pictures, strict=True)
        ]
        for number, each in enumerate(self.classes):
            weight = sum(subject.weight for subject in self.subjects if self.class_of(subject) == number)
            lengths.append(each.count * (total / weight))
        return math.ceil(round(max(lengths), 6))

    def course(self) -> Mapping[str, Any]:
        """List what decides on an update, by flag."""
        of_class = ("class_prompt", "num_class_images") if self.with_prior_preservation else ()
        listed = [
            {"instance_prompt": each.prompt, **{name: getattr(each, name) for name in of_class}}
            for each in self.subjects
        ]
        if len(listed) == 1:
            return listed[0]
        return {"concepts": [{**facts, "weight": each.weight} for facts, each in zip(listed, self.subjects)]}
