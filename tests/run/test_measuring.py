"""The measures of validation pictures: which subject a prompt is compared with, and the classes."""

import dataclasses

import numpy as np
import pytest
from support.clips import build_clip
from support.pictures import draw_pictures

from dreambooth.data import picture_files
from dreambooth.data.concepts import Concept
from dreambooth.drawing import measures
from dreambooth.run.choosing.measuring import ClipMeasures


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(build_clip(tmp_path_factory.mktemp("clip") / "small"))


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subjects")
    return [
        Concept(
            f"a photo of {word} dog",
            tuple(picture_files.find_pictures(draw_pictures(folder / word, count), "")[0]),
            "a photo of a dog",
        )
        for word, count in (("sks", 3), ("vdf", 2))
    ]


class Words:
    def identifier(self, prompt, class_prompt=None):
        return prompt.split()[3]


def opened(concept):
    return [picture_files.open_picture(each.path) for each in concept.pictures]


def test_a_prompt_is_compared_with_the_subject_that_it_names(clip, subjects):
    prompts = ["a sks dog at night", "a vdf dog", "a dog"]
    judge = ClipMeasures(clip, subjects, prompts, Words())
    assert [request.references for request in judge._requests] == [[0, 1, 2], [3, 4], [0, 1, 2, 3, 4]]
    own = [opened(each) for each in subjects]
    found = judge.figures([own[0], own[1], own[0] + own[1]], [own[0]])
    assert found["CLIP-I"] == pytest.approx(1, abs=0.5) and found["DIV"] >= -1e-6
    assert judge.class_prompts == ["a photo of a dog"]
    everything = judge._subject
    vectors = judge._clip.encode_pictures(own[0])
    assert found["PRES"] == pytest.approx(measures.mean_cosine(vectors, everything), abs=1e-5)


def cosine(some, others):
    return measures.mean_cosine(some, others)


def test_subject_and_class_are_told_apart_where_there_are_class_pictures(clip, subjects, tmp_path):
    of_class = tuple(picture_files.find_pictures(draw_pictures(tmp_path / "class", 6), "")[0])
    concept = dataclasses.replace(subjects[0], class_pictures=of_class[3:], pictures=of_class[:3])
    judge = ClipMeasures(clip, [concept], ["a sks dog"], Words())
    own, others = ([picture_files.open_picture(each.path) for each in part] for part in (of_class[:3], of_class[3:]))
    for drawn in (own, others):
        found = judge.figures([drawn], [drawn])
        rows, subject, kind = (judge._clip.encode_pictures(each) for each in (drawn, own, others))
        assert found["APART"] == pytest.approx(cosine(rows, subject) - cosine(rows, kind), abs=1e-5)
        assert found["DRIFT"] == pytest.approx(found["APART"])
    best = judge.figures_of_subject()
    subject, kind = (judge._clip.encode_pictures(each) for each in (own, others))
    assert best["APART"] == pytest.approx(best["CLIP-I"] - cosine(subject, kind), abs=1e-5)
    assert best["DRIFT"] == pytest.approx(best["PRES"] - cosine(subject, kind), abs=1e-5)
    without = ClipMeasures(clip, subjects, ["a sks dog"], Words())
    assert not {"DRIFT", "APART"} & (without.figures([own], [own]).keys() | without.figures_of_subject().keys())


def test_a_prompt_of_several_subjects_is_told_apart_from_all_their_classes(clip, subjects, tmp_path):
    files = tuple(picture_files.find_pictures(draw_pictures(tmp_path / "class", 5), "")[0])
    named = [
        dataclasses.replace(subjects[0], class_pictures=files[:2]),
        dataclasses.replace(subjects[1], class_pictures=files[2:], class_prompt="a photo of a cat"),
    ]
    judge = ClipMeasures(clip, named, ["a sks dog", "a vdf dog", "two dogs"], Words())
    assert [len(each) for each in judge._others] == [2, 3, 5]
    half = ClipMeasures(
        clip, [named[0], dataclasses.replace(named[1], class_pictures=())], ["a sks dog", "two dogs"], Words()
    )
    assert half._others[0] is not None and half._others[1] is None
    own = opened(named[0])
    assert "APART" not in half.figures([own, own], [own, own]) and "DRIFT" in half.figures([own, own], [own, own])


def test_the_rare_word_is_left_out_of_what_clip_reads(clip, subjects, monkeypatch):
    from dreambooth.drawing.instruments.clip import Clip

    read = []
    monkeypatch.setattr(Clip, "encode_prompts", lambda self, texts: read.extend(texts) or np.ones([len(texts), 8]))
    ClipMeasures(clip, subjects[:1], ["a sks dog at night", "a dog"], Words())
    assert read == ["a dog at night", "a dog"]


def test_the_subjects_own_pictures_have_the_best_figures(clip, subjects):
    judge = ClipMeasures(clip, subjects[:1], ["a sks dog"], Words())
    best = judge.figures_of_subject()
    assert best["CLIP-I"] <= 1 and best["PRES"] == best["CLIP-I"]


def test_a_single_picture_of_a_subject_is_the_best_that_can_be(clip, subjects, tmp_path):
    """Without it the score would be that of the prompts alone, and the least trained model the best."""
    of_class = tuple(picture_files.find_pictures(draw_pictures(tmp_path / "class", 4), "")[0])
    alone = dataclasses.replace(subjects[0], pictures=subjects[0].pictures[:1], class_pictures=of_class)
    judge = ClipMeasures(clip, [alone], ["a sks dog"], Words())
    best, own = judge.figures_of_subject(), opened(alone)
    assert best["CLIP-I"] == best["PRES"] == 1
    found = judge.figures([own], [own])
    assert {"APART", "DRIFT"} <= found.keys() and found["CLIP-I"] == pytest.approx(1, abs=1e-5)
    assert found["APART"] == pytest.approx(best["APART"], abs=1e-5)
    # beside another subject it counts as much as that one, in the best figures too
    both = ClipMeasures(clip, [alone, subjects[1]], ["a sks dog", "a vdf dog"], Words())
    rows = judge._clip.encode_pictures(opened(subjects[1]))
    assert both.figures_of_subject()["CLIP-I"] == pytest.approx((1 + measures.mean_cosine_within(rows)) / 2, abs=1e-5)


@pytest.mark.parametrize("prompt", ["一张sks狗", "SKS dog", "a sks, at night", "a sks-dog"])
def test_a_prompt_names_a_subject_as_people_write(clip, subjects, prompt):
    judge = ClipMeasures(clip, subjects, [prompt, "a sksx dog"], Words())
    assert [request.references for request in judge._requests] == [[0, 1, 2], [0, 1, 2, 3, 4]]


def test_the_words_of_all_subjects_are_left_out(clip, subjects, monkeypatch):
    from dreambooth.drawing.instruments.clip import Clip

    read = []
    monkeypatch.setattr(Clip, "encode_prompts", lambda self, texts: read.extend(texts) or np.ones([len(texts), 8]))
    ClipMeasures(clip, subjects, ["a sks dog and a VDF dog", "一张sks狗"], Words())
    assert read == ["a dog and a dog", "一张狗"]


def test_subjects_of_one_class_prompt_have_the_pictures_of_all_their_folders(clip, subjects, tmp_path):
    files = tuple(picture_files.find_pictures(draw_pictures(tmp_path / "class", 5), "")[0])
    named = [
        dataclasses.replace(subjects[0], class_pictures=files[:3]),
        dataclasses.replace(subjects[1], class_pictures=files[2:]),  # one is in both
    ]
    judge = ClipMeasures(clip, named, ["a sks dog"], Words())
    assert [len(each) for each in judge._classes.values()] == [5]
