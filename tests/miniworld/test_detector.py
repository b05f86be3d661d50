"""The detector: its answers, its loss, its file, and the pictures in which it finds a subject."""

import numpy as np
import paddle
import pytest
from PIL import Image
from safetensors.numpy import load_file

from miniworld import things, world
from miniworld.detector import HEADS, Detector, answers_of
from miniworld.things import Look

BARE = Look("house", "grey")
MARKED = Look("cat", "red", "spotted", mark=("lime", "bolt"))
HATTED = Look("fish", "pink", "striped", hat=("black", "magenta"))
DRESSED = Look("dog", "purple", mark=("yellow", "star"), hat=("red", "white"))
LOOKS = [BARE, MARKED, HATTED, DRESSED]
ANSWERS = sum(map(len, HEADS.values()))


@pytest.fixture
def detector():
    paddle.seed(0)
    network = Detector()
    network.eval()
    return network


def pictures(count, size=64):
    return [world.picture(*world.stranger(0, number), 0, number, size) for number in range(count)]


def pixels(count):
    shown = np.stack([np.asarray(each) for each in pictures(count)]).transpose(0, 3, 1, 2)
    return paddle.to_tensor(shown.astype(np.float32) / 127.5 - 1)


def logits(rows):
    """Split a row of numbers for each picture into {head: logits}, as forward() returns them."""
    split = np.cumsum([len(each) for each in HEADS.values()])[:-1]
    return dict(zip(HEADS, np.split(np.asarray(rows, np.float32), split, axis=1)))


def certain(looks, sure=20.0):
    """Return logits that name the look of each picture; heads without a right answer are as certain as the others."""
    rows = {head: np.zeros([len(looks), len(answers)], np.float32) for head, answers in HEADS.items()}
    for row, look in enumerate(looks):
        answers = {**{head: answers[0] for head, answers in HEADS.items()}, **answers_of(look)}
        for head, answer in answers.items():
            rows[head][row, HEADS[head].index(answer)] = sure
    return rows


@pytest.fixture
def answering(detector, monkeypatch):
    """Let the detector return given logits for every picture."""

    def run(given):
        given = {head: paddle.to_tensor(rows, stop_gradient=False) for head, rows in given.items()}
        monkeypatch.setattr(detector, "forward", lambda seen: {head: rows[: len(seen)] for head, rows in given.items()})
        return given

    return run


def test_each_part_of_a_look_has_an_answer():
    assert answers_of(DRESSED) == {
        "kind": "dog",
        "colour": "purple",
        "pattern": None,
        "mark": "star",
        "mark colour": "yellow",
        "hat": "hat",
        "hat colour": "red",
        "second hat colour": "white",
    }


def test_absent_parts_have_no_colours():
    assert answers_of(BARE) == {"kind": "house", "colour": "grey", "pattern": None, "mark": None, "hat": None}
    assert answers_of(MARKED).keys() == {*answers_of(BARE), "mark colour"}
    assert answers_of(HATTED).keys() == {*answers_of(BARE), "hat colour", "second hat colour"}


def test_the_heads_have_an_answer_for_every_look_and_no_other():
    looks = [world.stranger(0, number)[0] for number in range(3000)] + [*world.SUBJECTS.values()]
    right = [answers_of(look) for look in looks]
    for head, answers in HEADS.items():
        assert {each[head] for each in right if head in each} == {*answers} and len({*answers}) == len(answers)


def test_each_head_has_logits_for_each_picture(detector):
    answers = detector(pixels(5))
    assert {head: each.shape for head, each in answers.items()} == {head: [5, len(HEADS[head])] for head in HEADS}
    assert not np.allclose(answers["kind"][0].numpy(), answers["kind"][1].numpy())


def by_hand(given, looks):
    """Return the sum of the heads' cross entropies over their pictures with an answer, and the mean accuracy."""
    total, right = 0, []
    for head, rows in given.items():
        pairs = [(row, answers_of(look)[head]) for row, look in zip(rows, looks) if head in answers_of(look)]
        if pairs:
            labels = [HEADS[head].index(answer) for _, answer in pairs]
            total += np.mean([np.log(np.exp(row).sum()) - row[label] for (row, _), label in zip(pairs, labels)])
            right.append(np.mean([row.argmax() == label for (row, _), label in zip(pairs, labels)]))
    return total, np.mean(right)


@pytest.mark.parametrize("looks", [LOOKS, [BARE, BARE], [DRESSED], [MARKED, HATTED]])
def test_the_loss_is_the_sum_over_the_heads_with_an_answer(detector, answering, looks):
    given = logits(np.random.default_rng(0).standard_normal([len(looks), ANSWERS]))
    answering(given)
    loss, right = detector.loss(paddle.zeros([len(looks), 3, 64, 64]), looks)
    expected = by_hand(given, looks)
    assert (float(loss), float(right)) == pytest.approx(expected, rel=1e-5)


def test_the_colours_of_absent_parts_have_no_gradient(detector, answering):
    given = answering(logits(np.random.default_rng(0).standard_normal([4, ANSWERS])))
    loss, _ = detector.loss(paddle.zeros([4, 3, 64, 64]), LOOKS)
    loss.backward()
    for head, rows in given.items():
        learned = [bool(np.abs(row).max() > 1e-4) for row in rows.grad.numpy()]
        assert learned == [head in answers_of(look) for look in LOOKS], head


def test_right_answers_have_a_small_loss_and_full_accuracy(detector, answering):
    answering(certain(LOOKS))
    loss, right = detector.loss(paddle.zeros([4, 3, 64, 64]), LOOKS)
    assert float(loss) < 1e-4 and float(right) == 1
    loss, right = detector.loss(paddle.zeros([4, 3, 64, 64]), LOOKS[::-1])
    assert float(loss) > 10 and float(right) < 0.5


def test_it_learns_four_pictures_by_heart(detector):
    looks = [world.stranger(0, number)[0] for number in range(4)]
    adamw = paddle.optimizer.AdamW(2e-3, parameters=detector.parameters())
    for _ in range(60):
        loss, right = detector.loss(pixels(4), looks)
        loss.backward()
        adamw.step()
        adamw.clear_grad()
    assert float(right) == 1 and float(loss) < 1
    detector.eval()
    assert detector.has_all_parts_right(pictures(4), looks) == [True] * 4


def test_a_saved_detector_answers_the_same_within_half_precision(detector, tmp_path):
    detector.save(tmp_path / "detector.safetensors")
    tensors = load_file(tmp_path / "detector.safetensors")
    assert {each.dtype for each in tensors.values()} == {np.dtype(np.float16)}
    loaded = Detector.load(tmp_path / "detector.safetensors")
    assert not loaded.training and tensors.keys() == loaded.state_dict().keys()
    for name, each in detector.state_dict().items():
        kept = loaded.state_dict()[name]
        assert kept.dtype == paddle.float32
        np.testing.assert_array_equal(kept.numpy(), each.numpy().astype(np.float16).astype(np.float32))
    seen = pixels(6)
    for head, each in detector(seen).items():
        np.testing.assert_allclose(loaded(seen)[head].numpy(), each.numpy(), atol=5e-3)


def shown(detector, count, look):
    return detector.subject_probabilities([Image.new("RGB", (64, 64))] * count, look)


@pytest.mark.parametrize(
    "seen, expected",
    [
        (DRESSED, True),
        # another pattern, mark or hat: no other thing in the world has a mark or a hat
        (Look("dog", "purple", "striped", ("yellow", "star"), ("red", "white")), True),
        (Look("dog", "purple", None, ("red", "heart"), ("red", "white")), True),
        (Look("dog", "purple", None, ("yellow", "star"), ("white", "red")), True),
        (Look("cat", "purple", None, ("yellow", "star"), ("red", "white")), False),
        (Look("dog", "blue", None, ("yellow", "star"), ("red", "white")), False),
        (Look("dog", "purple", None, ("yellow", "star"), None), False),
        (Look("dog", "purple", None, None, ("red", "white")), False),
        (BARE, False),
    ],
)
def test_a_picture_with_class_colour_mark_and_hat_shows_the_subject(detector, answering, seen, expected):
    answering(certain([seen]))
    assert shown(detector, 1, DRESSED) == pytest.approx([float(expected)], abs=1e-3)


def test_the_probability_is_the_product_of_four(detector, answering):
    """With equal logits, each of a head's n answers has the probability 1 / n."""
    answering({head: np.zeros([1, len(answers)], np.float32) for head, answers in HEADS.items()})
    kinds, colours, marks, hats = (len(HEADS[head]) for head in ("kind", "colour", "mark", "hat"))
    expected = 1 / kinds / colours * (1 - 1 / marks) * (1 - 1 / hats)
    assert shown(detector, 1, DRESSED) == pytest.approx([expected], rel=1e-5)


def test_the_parts_of_a_picture_are_named_and_compared_with_its_look(detector, answering):
    answering(certain(LOOKS))
    seen = [Image.new("RGB", (64, 64))] * 4
    for parts, look in zip(detector.name_parts(seen), LOOKS, strict=True):
        assert parts.keys() == HEADS.keys() and {**parts, **answers_of(look)} == parts
    assert detector.has_all_parts_right(seen, LOOKS) == [True] * 4
    assert detector.has_all_parts_right(seen, [BARE, HATTED, HATTED, BARE]) == [True, False, True, False]


def test_pictures_may_have_any_size_and_mode(detector):
    large = pictures(2, size=256)
    small = [picture.resize((64, 64)) for picture in large]
    look = world.SUBJECTS["dog"]
    expected = detector.subject_probabilities(small, look)
    assert expected.shape == (2,) and len(set(expected.tolist())) == 2
    for same in (large, [each.convert("RGBA") for each in small]):
        np.testing.assert_allclose(detector.subject_probabilities(same, look), expected, rtol=1e-5)


def test_the_colours_are_those_of_the_renderer():
    for head in ("colour", "mark colour", "hat colour", "second hat colour"):
        assert HEADS[head] == tuple(things.COLOURS)
