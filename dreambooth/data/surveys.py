"""The survey of a run's subjects: their pictures, with captions and masks, all of them checked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dreambooth.config import concept_sections
from dreambooth.data import captions, picture_files, rare_words
from dreambooth.data.concepts import Concept, Picture
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.config.concept_sections import ClassSettings, ConceptSettings, SubjectSettings
    from dreambooth.config.sections import PictureSettings
    from dreambooth.data.captions import Captions
    from dreambooth.system.types import Tokenizer

_FLAG, _CLASS_PROMPTS = "--instance_data_dir", "--class_prompts_from_captions"


class Survey(NamedTuple):
    """The subjects of a run, still without the pictures of their classes, and what else lies in their folders."""

    concepts: tuple[Concept, ...]
    others: tuple[Path, ...]  # files that are no pictures, and no captions
    captions: str  # where those that are used are from, in words
    problems: tuple[str, ...]  # that do not end the run


def survey(concepts: ConceptSettings, pictures: PictureSettings) -> Survey:
    """Find and check the pictures, the masks and the captions of all subjects; what can't be used is a BadInput."""
    found, others, sources = list[Concept](), list[Path](), list[str]()
    problems: list[str] = []
    for subject in concepts.subjects:
        files, beside = picture_files.find_pictures(subject.instance_data_dir, _FLAG)
        own = dataclasses.replace(pictures, mask_dir=subject.mask_dir or pictures.mask_dir)
        masked = picture_files.with_masks(files, own)
        captioned, beside, said = _with_captions(concepts, subject, masked, beside)
        of_class = subject.class_prompt if concepts.with_prior_preservation else None
        found.append(Concept(subject.prompt, tuple(captioned), of_class, weight=subject.weight))
        others += beside
        sources += [said.source] if said.source else []
        problems += said.problems
        if len({picture.sha256 for picture in files}) < len(files):
            problems.append(f"{_FLAG} {subject.instance_data_dir}: some of its pictures are the same file twice")
    if pictures.use_alpha and not any(picture.mask for concept in found for picture in concept.pictures):
        raise BadInput("--use_alpha: no picture has transparency")
    problems += _shared(found)
    return Survey(tuple(found), tuple(others), " and ".join(dict.fromkeys(sources)), tuple(problems))


def classes(concepts: ConceptSettings, found: Survey, tokenizer: Tokenizer) -> tuple[ClassSettings, ...]:
    """List the classes of the subjects, with prompts from the captions where these are asked for."""
    if not concepts.class_prompts_from_captions:
        return concepts.classes
    words, prompts = rare_words.RareWords(tokenizer), [list[str]() for _ in concepts.classes]
    for subject, concept in zip(concepts.subjects, found.concepts):
        captions_of = [picture.caption for picture in concept.pictures if picture.caption]
        identifier = words.identifier(concept.prompt, concept.class_prompt)
        if not captions_of:
            raise BadInput(f"{_CLASS_PROMPTS}: the pictures in {subject.instance_data_dir} have no captions")
        if identifier is None:
            raise BadInput(f'{_CLASS_PROMPTS}: "{concept.prompt}" has no identifier to take out of its captions')
        prompts[concepts.class_of(subject) or 0] += [rare_words.of_class(text, identifier) for text in captions_of]
    distinct = [tuple(dict.fromkeys(each)) for each in prompts]
    return tuple(dataclasses.replace(each, prompts=own) for each, own in zip(concepts.classes, distinct))


def _with_captions(
    concepts: ConceptSettings, subject: SubjectSettings, pictures: Sequence[Picture], others: Sequence[Path]
) -> tuple[list[Picture], list[Path], Captions]:
    """Return (pictures with their captions, files that are neither, the captions as they were found)."""
    folder, paths = Path(subject.instance_data_dir), [picture.path for picture in pictures]
    found = captions.find(folder, paths, concepts.captions, _FLAG)
    filled = []
    for picture, text in zip(pictures, found.texts):
        caption = concept_sections.fill(text, subject.subject, f"the caption of {picture.path}")
        filled.append(dataclasses.replace(picture, caption=caption))
    own = captions.files_of(folder, paths) if filled else set()
    return filled or list(pictures), [path for path in others if path not in own], found


def _shared(concepts: Sequence[Concept]) -> list[str]:
    """Complain about a picture that two subjects have."""
    owner: dict[str, Picture] = {}
    for concept in concepts:
        for picture in concept.pictures:
            other = owner.get(picture.sha256)
            if other is not None and other.path.parent != picture.path.parent:
                return [f"{other.path} and {picture.path} are the same picture, and teach two subjects to look alike"]
        owner |= {picture.sha256: picture for picture in concept.pictures}
    return []
