"""The detector: what it is asked of a look, what it is taught, and when it says that a look is shown."""

import numpy as np
import paddle
import pytest
from PIL import Image
from safetensors.numpy import load_file

from miniworld import things, world
from miniworld.detector import HEADS, Detector, answers_of
from miniworld.world import Look

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
    """{head: logits} as forward() gives them, from a row of numbers for each picture."""
    split = np.cumsum([len(each) for each in HEADS.values()])[:-1]
    return dict(zip(HEADS, np.split(np.asarray(rows, np.float32), split, axis=1)))


def telling(looks, sure=20.0):
    """Logits that name the look of each picture, and are sure of something even where nothing is asked."""
    rows = {head: np.zeros([len(looks), len(answers)], np.float32) for head, answers in HEADS.items()}
    for row, look in enumerate(looks):
        told = {**{head: answers[0] for head, answers in HEADS.items()}, **answers_of(look)}
        for head, answer in told.items():
            rows[head][row, HEADS[head].index(answer)] = sure
    return rows


@pytest.fixture
def saying(detector, monkeypatch):
    """Let the detector answer with given logits, whatever it sees."""

    def run(given):
        given = {head: paddle.to_tensor(rows, stop_gradient=False) for head, rows in given.items()}
        monkeypatch.setattr(detector, "forward", lambda seen: {head: rows[: len(seen)] for head, rows in given.items()})
        return given

    return run


def test_all_parts_of_a_look_are_told():
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


def test_the_colours_of_what_is_not_there_are_not_told():
    assert answers_of(BARE) == {"kind": "house", "colour": "grey", "pattern": None, "mark": None, "hat": None}
    assert answers_of(MARKED).keys() == {*answers_of(BARE), "mark colour"}
    assert answers_of(HATTED).keys() == {*answers_of(BARE), "hat colour", "second hat colour"}


def test_there_is_an_answer_for_everything_that_can_be_seen():
    looks = [world.stranger(0, number)[0] for number in range(3000)] + [*world.SUBJECTS.values()]
    told = [answers_of(look) for look in looks]
    for head, answers in HEADS.items():
        assert {each[head] for each in told if head in each} == {*answers} and len({*answers}) == len(answers)


def test_each_head_answers_for_each_picture(detector):
    answers = detector(pixels(5))
    assert {head: each.shape for head, each in answers.items()} == {head: [5, len(HEADS[head])] for head in HEADS}
    assert not np.allclose(answers["kind"][0].numpy(), answers["kind"][1].numpy())


def by_hand(given, looks):
    """Sum of the cross entropies of the heads, each over the pictures that it is asked of; and the share right."""
    total, right = 0, []
    for head, rows in given.items():
        asked = [(row, answers_of(look)[head]) for row, look in zip(rows, looks) if head in answers_of(look)]
        if asked:
            places = [HEADS[head].index(answer) for _, answer in asked]
            total += np.mean([np.log(np.exp(row).sum()) - row[place] for (row, _), place in zip(asked, places)])
            right.append(np.mean([row.argmax() == place for (row, _), place in zip(asked, places)]))
    return total, np.mean(right)


@pytest.mark.parametrize("looks", [LOOKS, [BARE, BARE], [DRESSED], [MARKED, HATTED]])
def test_the_loss_is_the_sum_over_the_heads_that_are_asked(detector, saying, looks):
    given = logits(np.random.default_rng(0).standard_normal([len(looks), ANSWERS]))
    saying(given)
    loss, right = detector.loss(paddle.zeros([len(looks), 3, 64, 64]), looks)
    expected = by_hand(given, looks)
    assert (float(loss), float(right)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_says_nothing_of_the_colours_of_absent_parts(detector, saying):
    given = saying(logits(np.random.default_rng(0).standard_normal([4, ANSWERS])))
    loss, _ = detector.loss(paddle.zeros([4, 3, 64, 64]), LOOKS)
    loss.backward()
    for head, rows in given.items():
        learned = [bool(np.abs(row).max() > 1e-4) for row in rows.grad.numpy()]
        assert learned == [head in answers_of(look) for look in LOOKS], head


def test_right_answers_have_a_small_loss_and_are_counted(detector, saying):
    saying(telling(LOOKS))
    loss, right = detector.loss(paddle.zeros([4, 3, 64, 64]), LOOKS)
    assert float(loss) < 1e-4 and float(right) == 1
    loss, right = detector.loss(paddle.zeros([4, 3, 64, 64]), LOOKS[::-1])
    assert float(loss) > 10 and float(right) < 0.5


def test_it_learns_a_handful_of_pictures_by_heart(detector):
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


def test_saved_and_loaded_it_answers_the_same_within_half_precision(detector, tmp_path):
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
        # another pattern, mark or hat: in the world nothing else has a mark or a hat
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
def test_a_subject_is_shown_where_its_class_its_colour_a_mark_and_a_hat_are_seen(detector, saying, seen, expected):
    saying(telling([seen]))
    assert shown(detector, 1, DRESSED) == pytest.approx([float(expected)], abs=1e-3)


def test_how_surely_is_the_product_of_the_four(detector, saying):
    """All heads are asked alike here, so that each answer of a head of n has the probability 1 / n."""
    saying({head: np.zeros([1, len(answers)], np.float32) for head, answers in HEADS.items()})
    kinds, colours, marks, hats = (len(HEADS[head]) for head in ("kind", "colour", "mark", "hat"))
    expected = 1 / kinds / colours * (1 - 1 / marks) * (1 - 1 / hats)
    assert shown(detector, 1, DRESSED) == pytest.approx([expected], rel=1e-5)


def test_what_is_told_of_a_picture_and_whether_all_of_it_is_right(detector, saying):
    saying(telling(LOOKS))
    seen = [Image.new("RGB", (64, 64))] * 4
    for told, look in zip(detector.name_parts(seen), LOOKS, strict=True):
        assert told.keys() == HEADS.keys() and {**told, **answers_of(look)} == told
    assert detector.has_all_parts_right(seen, LOOKS) == [True] * 4
    assert detector.has_all_parts_right(seen, [BARE, HATTED, HATTED, BARE]) == [True, False, True, False]


def test_pictures_of_every_size_and_mode_are_looked_at(detector):
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
