"""The training loop: it learns, resumes bit for bit, and averages the weights."""

import json

import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.numpy import load_file

from dreambooth.data import randomness
from miniworld import training
from miniworld.training import Recipe, Training

RECIPE = Recipe(updates=30, batch=4, rate=0.05, warmup=5)


def linear(seed=0):
    paddle.seed(seed)
    return nn.Linear(3, 2)


def lesson(network, stop_at=None, seen=None):
    """Return a loss function that teaches `network` to add and to subtract, and stops the run at `stop_at`."""

    def loss_of(update, slots):
        if update == stop_at:
            raise KeyboardInterrupt
        keys = [(update, slot) for slot in slots]
        given = paddle.to_tensor(randomness.normal(0, "lesson", keys, (3,)))
        expected = paddle.stack([given.sum(1), given[:, 0] - given[:, 1]], axis=1)
        loss = (network(given) - expected).square().mean()
        if seen is not None:
            seen.append((update, list(slots), float(loss), {k: v.numpy() for k, v in network.named_parameters()}))
        return loss, {}

    return loss_of


def taught(folder, recipe=RECIPE, seed=0, **changes):
    """Return the weights after a whole run."""
    network = linear(seed)
    Training("tiny", network, recipe, folder).run(lesson(network, **changes))
    return weights(network)


def weights(network):
    return {name: each.numpy() for name, each in network.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def state(folder):
    return load_file(folder / "tiny-state/state.safetensors")


def test_the_loss_falls(tmp_path):
    seen = []
    taught(tmp_path, Recipe(updates=150, batch=8, rate=0.1, warmup=5), seen=seen)
    losses = [loss for _, _, loss, _ in seen]
    assert np.mean(losses[-5:]) < 0.05 * np.mean(losses[:5])


def test_each_update_is_made_once_with_the_whole_batch(tmp_path):
    seen = []
    taught(tmp_path, seen=seen)
    assert [(update, slots) for update, slots, *_ in seen] == [(update, [0, 1, 2, 3]) for update in range(30)]


@pytest.mark.parametrize("stop_at", [1, 15, 21])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path, monkeypatch, stop_at):
    whole = taught(tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_EVERY", 0)
    network = linear()
    with pytest.raises(KeyboardInterrupt):
        Training("tiny", network, RECIPE, tmp_path / "parts").run(lesson(network, stop_at))
    stands = json.loads((tmp_path / "parts/tiny-state/state.json").read_text())["update"]
    assert 0 < stands <= stop_at
    seen = []
    resumed = taught(tmp_path / "parts", seed=1, seen=seen)  # its initial weights are others
    assert [update for update, *_ in seen] == list(range(stands, 30))
    assert same(resumed, whole) and same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_without_a_checkpoint_a_run_starts_from_the_beginning(tmp_path):
    network = linear()
    with pytest.raises(KeyboardInterrupt):
        Training("tiny", network, RECIPE, tmp_path / "parts").run(lesson(network, stop_at=15))
    assert not (tmp_path / "parts/tiny-state").exists()  # the run is shorter than SAVE_EVERY seconds
    assert same(taught(tmp_path / "parts"), taught(tmp_path / "whole"))


def test_a_finished_run_makes_no_update(tmp_path):
    once, seen = taught(tmp_path), []
    assert same(taught(tmp_path, seed=1, seen=seen), once) and seen == []


def test_two_networks_in_one_folder_do_not_disturb_each_other(tmp_path):
    once = taught(tmp_path)
    network = linear(2)
    Training("other", network, RECIPE, tmp_path).run(lesson(network))
    assert same(taught(tmp_path), once) and not same(weights(network), once)


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_the_network_ends_with_the_average_of_its_weights(tmp_path, keep):
    seen = []
    recipe = Recipe(updates=30, batch=4, rate=0.05, warmup=5, average=keep)
    ended = taught(tmp_path, recipe, seen=seen)
    tensors = state(tmp_path)
    for name in ended:
        before = [each[name] for *_, each in seen]
        after = [*before[1:], tensors[f"{name}:weight"]]
        average = before[0].astype(float)
        for update, each in enumerate(after):
            share = min(keep, (1 + update) / (10 + update))
            average = share * average + (1 - share) * each
        np.testing.assert_allclose(ended[name], average, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(ended[name], tensors[f"{name}:average"])
        assert np.abs(ended[name] - tensors[f"{name}:weight"]).max() > 1e-4


def test_the_rate_rises_stays_and_falls_to_almost_0():
    recipe = Recipe(updates=1000, batch=1, rate=2e-3, warmup=100, cooldown=0.3)
    rates = [recipe.rate_at(update) for update in range(1000)]
    assert rates[0] == pytest.approx(2e-5) and rates[49] == pytest.approx(1e-3)
    assert rates[99:700] == pytest.approx([2e-3] * 601)
    assert rates[850] == pytest.approx(1e-3) and 0 < rates[999] < 1e-5
    assert np.all(np.diff(rates[:100]) > 0) and np.all(np.diff(rates[700:]) < 0)


@pytest.mark.parametrize("updates", [1, 2, 50])
def test_a_short_run_has_a_rate_in_every_update(updates):
    recipe = Recipe(updates=updates, batch=1, rate=1.0)
    assert all(0 < recipe.rate_at(update) <= 1 for update in range(updates))


def test_each_update_is_made_at_the_recipes_rate(tmp_path):
    network, rates = linear(), []
    run = Training("tiny", network, RECIPE, tmp_path)
    teach = lesson(network)

    def loss_of(update, slots):
        rates.append(run.adamw.get_lr())  # the rate of the last update
        return teach(update, slots)

    run.run(loss_of)
    assert rates[1:] == pytest.approx([RECIPE.rate_at(update) for update in range(29)])


class Reader(nn.Layer):
    """A network of words, some of which never occur, with an input that is always 0."""

    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Embedding(6, 4)
        self.out = nn.Linear(5, 1)

    def forward(self, words):
        vectors = self.token_embedding(words).mean(1)
        return self.out(paddle.concat([vectors, paddle.zeros([len(vectors), 1])], axis=1))


def read(network):
    def loss_of(update, slots):
        words = paddle.to_tensor([[(update + slot) % 3, slot % 2] for slot in slots])
        return (network(words) - 1).square().mean(), {}

    return loss_of


def test_an_unused_word_keeps_its_embedding_while_other_weights_decay(tmp_path):
    paddle.seed(0)
    network = Reader()
    initial = weights(network)
    Training("tiny", network, Recipe(updates=30, batch=4, rate=0.02, warmup=1, decay=0.5), tmp_path).run(read(network))
    ended = state(tmp_path)
    np.testing.assert_array_equal(ended["token_embedding.weight:weight"][3:], initial["token_embedding.weight"][3:])
    assert np.abs(ended["token_embedding.weight:weight"][:3] - initial["token_embedding.weight"][:3]).min() > 1e-3
    np.testing.assert_allclose(
        weights(network)["token_embedding.weight"][3:], initial["token_embedding.weight"][3:], rtol=1e-5
    )
    # the weight of the input that is always 0 has no gradient, and decays
    unused = initial["out.weight"][4, 0]
    assert 0.5 < ended["out.weight:weight"][4, 0] / unused < 0.95


def test_frozen_weights_do_not_change(tmp_path):
    paddle.seed(0)
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    for each in network[0].parameters():
        each.stop_gradient = True
    initial = weights(network)
    Training("tiny", network, RECIPE, tmp_path).run(lesson(network))
    ended = weights(network)
    assert all(np.array_equal(ended[name], initial[name]) == name.startswith("0.") for name in initial)


def broken_at(network, when, value):
    teach = lesson(network)

    def loss_of(update, slots):
        loss, numbers = teach(update, slots)
        return (loss * value if update == when else loss), numbers

    return loss_of


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("when", [0, 3, 10])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_network(tmp_path, monkeypatch, when, value):
    monkeypatch.setattr(training, "SAVE_EVERY", 0)
    network = linear()
    with pytest.raises(FloatingPointError, match="^tiny: loss is (nan|inf) at update"):
        Training("tiny", network, RECIPE, tmp_path).run(broken_at(network, when, value))
    if when:  # the last checkpoint is whole
        assert all(np.isfinite(each).all() for each in state(tmp_path).values())


def test_weights_that_are_not_finite_after_the_last_update_are_an_error(tmp_path):
    network = linear()
    with pytest.raises(FloatingPointError, match="tiny"):
        Training("tiny", network, RECIPE, tmp_path).run(broken_at(network, RECIPE.updates - 1, float("nan")))


def test_a_shown_number_that_is_not_finite_is_named(tmp_path):
    network = linear()
    teach = lesson(network)
    with pytest.raises(FloatingPointError, match="^tiny: psnr is nan"):
        Training("tiny", network, RECIPE, tmp_path).run(
            lambda update, slots: (teach(update, slots)[0], {"psnr": float("nan")})
        )


def test_pixels_become_channels_first_in_minus_one_to_one():
    pictures = np.zeros([2, 4, 6, 3], np.uint8)
    pictures[1, 2, 3] = (0, 51, 255)
    seen = training.scale_pixels(pictures).numpy()
    assert seen.shape == (2, 3, 4, 6) and seen.dtype == np.float32
    np.testing.assert_allclose(seen[1, :, 2, 3], [-1, -0.6, 1], atol=1e-6)
    assert (seen[0] == -1).all()
