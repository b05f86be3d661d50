"""The figures of a model's pictures: what a perfect model would have, and what the base has."""

from miniworld import evaluator as evaluators
from miniworld import photograph, world
from miniworld.evaluator import Evaluator
from miniworld.things import Look


def test_prompts_name_scenes_without_training_pictures():
    assert evaluators.prompts("sks cat") == [f"a photo of sks cat {scene}" for scene in world.UNSEEN]
    assert not set(world.UNSEEN) & set(world.SEEN)


def test_a_subjects_own_pictures_have_high_figures():
    evaluator = Evaluator()
    for subject in world.SUBJECTS:
        real = evaluator.figures_of_photographs(subject)
        assert real["scene right"] >= 0.9 and real["subject shown"] >= 0.8
        assert 0 < real["DIV"] < 1 - real["CLIP-I"] + 1e-6
        pictures = [world.photograph(subject, scene, 0, 0) for scene in world.UNSEEN]
        assert evaluator.figures(subject, [[each] * 2 for each in pictures], pictures)["CLIP-I"] > 0.5


def test_a_picture_of_the_world_does_not_show_the_subject():
    evaluator = Evaluator()
    groups = [[world.picture(Look("dog", "brown"), scene, 0, n) for n in range(2)] for scene in world.UNSEEN]
    found = evaluator.figures("dog", groups, groups[0])
    assert found["subject shown"] == 0 and found["class shows subject"] == 0 and found["scene right"] >= 0.8
    assert found["CLIP-I"] < evaluator.figures_of_photographs("dog")["CLIP-I"] - 0.1


def test_measuring_pictures_are_no_training_pictures():
    evaluator = Evaluator()
    trained = [world.photograph("dog", scene, 0, 0).tobytes() for scene in world.SCENES]
    assert photograph.FIRST_MEASURED > 0
    assert all(picture.tobytes() not in trained for group in evaluator.photographs("dog") for picture in group)


def test_all_pictures_of_a_model_are_drawn_with_the_evaluators_guidance(monkeypatch):
    seen = []

    def draw(family, requests, seed=0, guidance=None):
        seen.append(guidance)
        return [world.photograph("dog", world.UNSEEN[0], 0, 0)] * len(requests)

    monkeypatch.setattr(evaluators.judge, "draw", draw)
    monkeypatch.setattr(evaluators.loading, "load_family", lambda source: None)
    for guidance in ({}, {"guidance": 5.0}):
        evaluator = Evaluator(**guidance)
        evaluator.draw(None, "dog")
        evaluator.share_of_training_scene(None, "dog")
    assert seen == [7.5, 7.5, 5.0, 5.0]
