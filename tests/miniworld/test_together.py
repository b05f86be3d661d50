"""The study of several subjects at once: its runs, and what it calls mixed."""

import json

import pytest

from miniworld import together, world
from miniworld.evaluator import Evaluator


def test_the_list_names_each_subject_by_its_words_and_its_class(tmp_path):
    found = together.concepts(tmp_path, list(together.WORDS))
    assert [each["instance_prompt"] for each in found] == [f"a photo of {words}" for words in together.WORDS.values()]
    assert [each["class_prompt"] for each in found] == ["a photo of a dog", "a photo of a dog", "a photo of a car"]
    assert all(len(list((tmp_path / "pictures" / name).iterdir())) == 5 for name in ("dog", "other-dog", "car"))


@pytest.mark.parametrize("subjects", [["car"], list(together.WORDS)])
def test_a_run_teaches_some_subjects_by_a_list(subjects, tmp_path, monkeypatch):
    import train_dreambooth
    from dreambooth.config.parser import read_config

    seen = []
    monkeypatch.setattr(train_dreambooth, "main", lambda argv: seen.append(read_config(argv, "")))
    result = together.train(subjects, 40, 3, tmp_path)
    [config] = seen
    assert config.saving.output_dir == str(result) and config.run.seed == 3
    assert config.optimizer.max_train_steps == 40
    assert [each.prompt for each in config.concepts.subjects] == [
        f"a photo of {together.WORDS[each]}" for each in subjects
    ]
    assert len(config.concepts.classes) == len({world.LOOKS[each].kind for each in subjects})


def test_the_marks_of_another_subject_are_known():
    def parts(mark=None, hat=None):
        return {
            "mark": mark and mark[1], "mark colour": mark and mark[0], "hat": hat and "hat",
            "hat colour": hat and hat[0], "second hat colour": hat and hat[1],
        }  # fmt: skip

    dog, car = world.LOOKS["dog"], world.LOOKS["car"]
    assert not together.has_others_marks(parts(dog.mark, dog.hat), "dog")
    assert together.has_others_marks(parts(car.mark, dog.hat), "dog")
    assert together.has_others_marks(parts(None, car.hat), "dog")
    assert not together.has_others_marks(parts(), "dog")
    assert not together.has_others_marks(parts(("black", "star"), ("grey", "grey")), "dog")


def test_real_pictures_are_not_mixed(tmp_path, monkeypatch):
    evaluator = Evaluator(together.WORDS)

    def draw(self, family, subject):
        groups = self.photographs(subject)
        return groups, groups[0]

    monkeypatch.setattr(Evaluator, "draw", draw)
    monkeypatch.setattr(together.loading, "load_family", lambda source: None)
    found = together.measure_once(evaluator, tmp_path, list(together.WORDS), tmp_path / "figures.json")
    for subject, figures in found.items():
        assert figures["subject shown"] >= 0.8 and figures["other's marks"] <= 0.1, subject
        assert figures["taken for another"] <= 0.1
    assert json.loads((tmp_path / "figures.json").read_text()) == found
