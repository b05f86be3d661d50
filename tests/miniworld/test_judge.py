"""Classification of pictures by CLIP."""

import numpy as np
import pytest

from miniworld import judge, world


class PerfectClip:
    """A CLIP whose pictures are captions: the vector of a caption or a text has its words."""

    words = sorted({word for text in (*world.SCENES, *world.CLASSES) for word in text.split()})

    def encode_prompts(self, texts):
        rows = np.array([[word in text.split() for word in self.words] for text in texts], dtype=float)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    encode_pictures = encode_prompts


def test_the_scene_is_that_of_the_most_similar_text():
    pictures = [f"a {kind} {scene}" for kind in ("dog", "car") for scene in world.SCENES]
    kinds = ["dog"] * len(world.SCENES) + ["car"] * len(world.SCENES)
    assert judge.classify_scenes(PerfectClip(), pictures, kinds) == list(world.SCENES) * 2


def test_classification_returns_the_index_of_the_most_similar_text():
    found = judge.classify(PerfectClip(), ["a cat in the snow", "a fish at night"], ["fish", "house", "cat"])
    assert list(found) == [2, 0]


def test_accuracy_counts_and_refuses_lists_of_different_length():
    assert judge.accuracy(["a", "b", "c", "d"], ["a", "x", "c", "d"]) == 0.75
    with pytest.raises(ValueError):
        judge.accuracy(["a"], ["a", "b"])


def test_pictures_are_drawn_with_the_guidance_of_the_tool_or_another(monkeypatch):
    class Family:
        default_size = (64, 64)

    seen = []
    monkeypatch.setattr(judge.sampling, "draw", lambda family, settings, requests: seen.append(settings) or iter(()))
    assert judge.draw(Family(), []) == judge.draw(Family(), [], guidance=5.0) == []
    assert [each.guidance for each in seen] == [7.5, 5.0] and seen[0].steps == judge.STEPS
