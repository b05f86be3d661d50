"""The training data: the file of pictures, strangers among them, and captions as tokens."""

import numpy as np
import paddle
import pytest
from PIL import Image
from support.clips import CAPTIONS
from support.pretraining import PICTURES, small_pretraining

from miniworld import dataset, networks, stages, tokenizer, world


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    with small_pretraining():
        dataset.draw_pictures(folder)
    return dataset.read_pictures(folder)


def test_the_file_holds_the_worlds_pictures(drawn):
    assert drawn.shape == (PICTURES, 64, 64, 3) and drawn.dtype == np.uint8
    for number in (0, 5, PICTURES - 1):
        look, scene = world.thing(dataset.SEED, number)
        assert np.array_equal(drawn[number], np.asarray(world.picture(look, scene, dataset.SEED, number)))


def test_an_interrupted_drawing_leaves_no_pictures(tmp_path, monkeypatch):
    def stop(*thing):
        raise KeyboardInterrupt

    monkeypatch.setattr(world, "picture", stop)
    with small_pretraining(), pytest.raises(KeyboardInterrupt):
        dataset.draw_pictures(tmp_path)
    assert not list(tmp_path.iterdir())


def test_some_things_are_strangers_and_each_picture_shows_its_thing(drawn):
    numbers = range(300)
    things = list(dataset.mixed_things(drawn, "test", numbers, strangers=0.4))
    known = {picture.tobytes(): world.thing(dataset.SEED, index) for index, picture in enumerate(drawn)}
    strangers = 0
    for number, (picture, look, scene) in zip(numbers, things, strict=True):
        if picture.tobytes() in known:
            assert known[picture.tobytes()] == (look, scene)
        else:
            strangers += 1
            assert (look, scene) == world.stranger(dataset.SEED, number)
            assert np.array_equal(picture, np.asarray(world.picture(look, scene, dataset.SEED + 1, number)))
    assert strangers / 300 == pytest.approx(0.4, abs=0.1)
    assert not any(look.mark or look.hat for _, look, _ in dataset.mixed_things(drawn, "test", numbers, strangers=0))


def test_half_of_the_pictures_are_blurred():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    blurred = [dataset.blur(picture, number).tobytes() for number in range(200)]
    assert [dataset.blur(picture, number).tobytes() for number in range(200)] == blurred
    unchanged = [each == picture.tobytes() for each in blurred]
    assert np.mean(unchanged) == pytest.approx(0.5, abs=0.12)
    deviations = [np.frombuffer(each, np.uint8).std() for each, same in zip(blurred, unchanged) if not same]
    assert max(deviations) <= np.asarray(picture).std() and min(deviations) < 0.6 * np.asarray(picture).std()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a tokenizer and an untrained CLIP."""
    folder = tmp_path_factory.mktemp("work")
    tokens = tokenizer.make(folder / "tokenizer", seed=0, captions=CAPTIONS)
    paddle.seed(0)
    stages.save_network(networks.clip(tokens), folder / "clip")
    return folder


def test_captions_become_rows_of_tokens_of_one_length(work):
    tokens = dataset.read_tokenizer(work)
    rows = dataset.token_ids(tokens, ["a dog", "dog " * 60]).numpy()
    assert rows.shape == (2, networks.TOKENS)
    assert rows[0, 3:].tolist() == [tokens.eos_token_id] * (networks.TOKENS - 3)
    assert rows[1, -1] == tokens.eos_token_id and tokens.eos_token_id not in rows[1, :-1]


def test_each_caption_is_encoded_once_and_alone(work, monkeypatch):
    encode, encoded = dataset.caption_encoder(work), []
    token_ids = dataset.token_ids
    monkeypatch.setattr(
        dataset, "token_ids", lambda tokens, captions: (encoded.extend(captions), token_ids(tokens, captions))[1]
    )
    together = encode(["a photo of a dog", "", "an orange cat at night", "a photo of a dog"]).numpy()
    assert together.shape == (4, networks.TOKENS, networks.WIDTH)
    np.testing.assert_array_equal(together[0], together[3])
    assert len({row.tobytes() for row in together}) == 3
    np.testing.assert_array_equal(encode(["an orange cat at night"]).numpy()[0], together[2])
    assert encoded == ["a photo of a dog", "", "an orange cat at night"]
