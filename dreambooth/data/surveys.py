"""The survey of a run's subjects: their pictures, with captions and masks, all of them checked."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dreambooth.config import concept_sections
from dreambooth.data import captions, picture_files, rare_words, transforms
from dreambooth.data.concepts import Concept, Picture
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.config.concept_sections import ClassSettings, ConceptSettings, SubjectSettings
    from dreambooth.config.sections import PictureSettings
    from dreambooth.data.captions import Captions
    from dreambooth.system.types import Size, Tokenizer

_FLAG, _CLASS_PROMPTS = "--instance_data_dir", "--class_prompts_from_captions"


class Survey(NamedTuple):
    """The subjects of a run, still without the pictures of their classes, and what else lies in their folders."""

    concepts: tuple[Concept, ...]
    others: tuple[Path, ...]  # files that are no pictures, and no captions
    captions: tuple[str, ...]  # where those of each subject are from, in words; empty: it has none
    problems: tuple[str, ...]  # that do not end the run

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures of all subjects."""
        return tuple(picture for concept in self.concepts for picture in concept.pictures)

    @property
    def counts(self) -> list[int]:
        """The number of pictures of each subject."""
        return [len(concept.pictures) for concept in self.concepts]


def survey(concepts: ConceptSettings, pictures: PictureSettings) -> Survey:
    """Find and check the pictures, the masks and the captions of all subjects; what can't be used is a BadInput."""
    found, others, sources = list[Concept](), list[Path](), list[str]()
    problems: list[str] = []
    for subject in concepts.subjects:
        files, beside = picture_files.find_pictures(subject.instance_data_dir, _FLAG)
        own = dataclasses.replace(pictures, mask_dir=subject.mask_dir or pictures.mask_dir)
        masked = picture_files.with_masks(files, own)
        captioned, beside, said = _with_captions(concepts, subject, masked, beside)
        of_class = subject.class_prompt if concepts.keeps_class else None
        concept = Concept(subject.prompt, tuple(captioned), of_class, weight=subject.weight)
        if concepts.keeps_class and not concepts.with_prior_preservation:
            plain = (dataclasses.replace(each, caption=None, mask=None) for each in concept.pictures)
            concept = dataclasses.replace(concept, class_pictures=tuple(plain))
        found.append(concept)
        others += beside
        sources.append(said.source)
        problems += said.problems
        if len({picture.sha256 for picture in files}) < len(files):
            problems.append(f"{_FLAG} {subject.instance_data_dir}: some of its pictures are the same file twice")
    if pictures.use_alpha and not any(picture.mask for concept in found for picture in concept.pictures):
        raise BadInput("--use_alpha: no picture has transparency")
    problems += _shared(found)
    return Survey(tuple(found), tuple(others), tuple(sources), tuple(problems))


def held_out(folder: str | None, found: Survey) -> tuple[Picture, ...]:
    """Find other pictures of the subject, to measure with; one that it trains on too measures what it remembers."""
    if folder is None:
        return ()
    pictures, _ = picture_files.find_pictures(folder, "--validation_data_dir")
    trained = {picture.sha256 for picture in found.pictures}
    if twice := [picture.path.name for picture in pictures if picture.sha256 in trained]:
        raise BadInput(f"--validation_data_dir {folder}: {twice[0]} is one of the pictures to train on; give others")
    return tuple(pictures)


def classes(concepts: ConceptSettings, found: Survey, tokenizers: Sequence[Tokenizer]) -> tuple[ClassSettings, ...]:
    """List the classes of the subjects, with prompts from the captions where these are asked for."""
    if not concepts.class_prompts_from_captions:
        return concepts.classes
    words, named = rare_words.RareWords(*tokenizers), list[tuple[str, str]]()
    for concept in found.concepts:
        identifier = words.identifier(concept.prompt, concept.class_prompt)
        if identifier is None:
            raise BadInput(f'{_CLASS_PROMPTS}: "{concept.prompt}" has no identifier to take out of its captions')
        named.append((identifier, concept.class_prompt or ""))
    prompts = [list[list[str]]() for _ in concepts.classes]
    for subject, concept, own in zip(concepts.subjects, found.concepts, named):
        captions_of = [picture.caption for picture in concept.pictures if picture.caption]
        if not captions_of:
            raise BadInput(f"{_CLASS_PROMPTS}: the pictures in {subject.instance_data_dir} have no captions")
        others = [each for each in named if each != own]
        for identifier, class_prompt in (own, *others):
            captions_of = [rare_words.of_class(text, identifier, class_prompt) for text in captions_of]
        prompts[concepts.class_of(subject) or 0].append(captions_of)
    # the subjects of a class take turns, so that few pictures have scenes of each
    turns = [[text for row in itertools.zip_longest(*several) for text in row if text] for several in prompts]
    distinct = [tuple(dict.fromkeys(each)) for each in turns]
    return tuple(dataclasses.replace(each, prompts=own) for each, own in zip(concepts.classes, distinct))


def hashes_of_masks(concept: Concept) -> list[str]:
    """List the hashes of a subject's mask files."""
    masks = [picture.mask for picture in concept.pictures if picture.mask and picture.mask != picture.path]
    return [hashlib.sha256(mask.read_bytes()).hexdigest() for mask in masks]


def check_crops(found: Survey, settings: PictureSettings, sizes: Sequence[Size]) -> None:
    """Refuse a mask of which nothing is left as the network sees it; without a weight beside it, there is no loss."""
    if settings.unmasked_weight:
        return
    for picture in (each for each in found.pictures if each.mask):
        mask = picture_files.open_mask(picture)
        for view in transforms.views(picture.size, settings, transforms.nearest(picture.size, sizes)):
            if not transforms.to_weights(mask, view, 0.0).any():
                raise BadInput(
                    f"--unmasked_weight 0: the mask of {picture.path} has no place that counts as the network sees it;"
                    " give a little weight, such as 0.05, or another --resize_mode"
                )


def _with_captions(
    concepts: ConceptSettings, subject: SubjectSettings, pictures: Sequence[Picture], others: Sequence[Path]
) -> tuple[list[Picture], list[Path], Captions]:
    """Return (pictures with their captions, files that are neither, the captions as they were found)."""
    folder, paths = Path(subject.instance_data_dir), [picture.path for picture in pictures]
    found = captions.find(folder, paths, concepts.captions, _FLAG)
    filled, remedy = [], concept_sections.BY_LIST if concepts.concepts else concept_sections.BY_FLAG
    for picture, text in zip(pictures, found.texts):
        caption = concept_sections.fill(text, subject.subject, f"the caption of {picture.path}", remedy)
        filled.append(dataclasses.replace(picture, caption=caption))
    own = captions.files_of(folder, paths) if filled else set()
    return filled or list(pictures), [path for path in others if path not in own], found


def _shared(concepts: Sequence[Concept]) -> list[str]:
    """Complain about a picture that two subjects have."""
    owner: dict[str, Picture] = {}
    for concept in concepts:
        for picture in concept.pictures:
            other = owner.get(picture.sha256)
            if other is not None and other.path.parent.resolve() != picture.path.parent.resolve():
                return [f"{other.path} and {picture.path} are the same picture, and teach two subjects to look alike"]
        owner |= {picture.sha256: picture for picture in concept.pictures}
    return []
