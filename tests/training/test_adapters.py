"""The LoRA of a network: what it adds, its gradients, its dropout, and that the network stays as it was."""

from typing import get_args

import numpy as np
import paddle
import pytest
from support.families import load_family

from dreambooth.config.learning_sections import LayerKind, LoraSettings
from dreambooth.data import randomness
from dreambooth.data.concepts import Example, MicroBatch, View
from dreambooth.models import registry
from dreambooth.system.errors import BadInput
from dreambooth.training.lora.adapters import Adapter, Adapters
from dreambooth.training.objective.diffusion import diffusion_for


class Network(paddle.nn.Layer):
    """The names that attention has, and a layer that is none."""

    def __init__(self):
        super().__init__()
        self.to_q, self.other = paddle.nn.Linear(6, 4), paddle.nn.Linear(6, 4)
        self.to_out = paddle.nn.LayerList([paddle.nn.Linear(4, 4)])

    def forward(self, x):
        return self.to_out[0](self.to_q(x) + self.other(x))


def lora(rank=2, alpha=2.0, dropout=0.0):
    return LoraSettings(lora_rank=rank, lora_alpha=alpha, lora_dropout=dropout)


def adapter_of(network, seed=0, **settings):
    return Adapter("unet", network, lora(**settings), seed)


def filled(adapter):
    """Give the second matrices something else than zeros."""
    for number, layer in enumerate(adapter.layers.values()):
        values = np.random.default_rng(number).standard_normal(layer.layer.up.weight.shape)
        layer.layer.up.weight.set_value(values.astype(np.float32))
    return adapter


def given(shape=(3, 5, 6)):
    return paddle.to_tensor(np.random.default_rng(9).standard_normal(shape).astype(np.float32))


def test_at_the_start_it_adds_nothing_and_hangs_on_the_attention_alone():
    network = Network()
    before, names = network(given()).numpy(), set(network.state_dict())
    adapter = adapter_of(network)
    assert np.array_equal(network(given()).numpy(), before)
    assert list(adapter.layers) == ["to_q", "to_out.0"] and set(network.state_dict()) == names
    assert set(adapter.state_dict()) == {
        f"{layer}.{side}.weight" for layer in ("to_q", "to_out.0") for side in ("down", "up")
    }


def test_it_adds_alpha_over_rank_times_the_product():
    network = Network()
    plain = network.to_q(given()).numpy()
    layer = filled(adapter_of(network, rank=2, alpha=5.0)).layers["to_q"].layer
    change = given().numpy() @ layer.down.weight.numpy() @ layer.up.weight.numpy() * 2.5
    assert np.allclose(network.to_q(given()).numpy(), plain + change, atol=1e-5)


def test_the_matrices_carry_the_scale():
    adapter = filled(adapter_of(Network(), rank=2, alpha=5.0))
    down, up, _ = adapter.matrices()["to_q"]
    assert down.shape == (2, 6) and up.shape == (4, 2)
    assert np.allclose(up.T, adapter.layers["to_q"].layer.up.weight.numpy() * 2.5)


def test_the_first_matrix_depends_on_the_seed():
    one, same, other = (adapter_of(Network(), seed=seed).matrices()["to_q"][0] for seed in (3, 3, 4))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    wide = adapter_of(Network(), rank=64).matrices()["to_q"][0]
    assert abs(wide.std() * 64 - 1) < 0.2  # the spread that the library gives it


def test_detached_the_network_is_as_it_was():
    network = Network()
    before = network(given()).numpy()
    adapter = filled(adapter_of(network))
    with_adapter = network(given()).numpy()
    assert not np.allclose(with_adapter, before)
    adapter.detach()
    assert np.array_equal(network(given()).numpy(), before)
    for _ in range(2):  # twice is no more than once
        adapter.attach()
        assert np.array_equal(network(given()).numpy(), with_adapter)


def test_all_are_off_within_the_context_and_on_after_it_even_after_an_error():
    networks = {"unet": Network(), "text_encoder": Network()}
    before = [network(given()).numpy() for network in networks.values()]
    adapters = Adapters(networks, "unet", lora(), seed=0)
    for adapter in adapters.values():
        filled(adapter)
    with_adapters = [network(given()).numpy() for network in networks.values()]
    with pytest.raises(RuntimeError), adapters.off():
        for network, expected in zip(networks.values(), before):
            assert np.array_equal(network(given()).numpy(), expected)
        raise RuntimeError
    for network, expected in zip(networks.values(), with_adapters):
        assert np.array_equal(network(given()).numpy(), expected)


def test_the_adapters_of_all_parts_detach_and_forget_their_dropout_together():
    networks = {"unet": Network(), "text_encoder": Network()}
    before = [network(given()).numpy() for network in networks.values()]
    adapters = Adapters(networks, "unet", lora(dropout=0.5), seed=0)
    for adapter in adapters.values():
        filled(adapter)
    whole = [network(given()).numpy() for network in networks.values()]
    for part, adapter in adapters.items():
        adapter.choose_dropout([(0, row) for row in range(len(given()))], seed=0)
        assert not np.array_equal(networks[part](given()).numpy(), whole[list(networks).index(part)])
    adapters.clear_dropout()
    for network, expected in zip(networks.values(), whole):
        assert np.array_equal(network(given()).numpy(), expected)
    adapters.detach()
    for network, expected in zip(networks.values(), before):
        assert np.array_equal(network(given()).numpy(), expected)


def test_every_name_of_a_target_has_its_pattern():
    assert set(registry.LAYER_KINDS) == set(get_args(LayerKind))


def test_a_network_without_attention_is_refused():
    with pytest.raises(BadInput, match="--lora_rank: the unet has no attention"):
        adapter_of(paddle.nn.Sequential(paddle.nn.Linear(2, 2)))


def test_without_a_rank_there_are_none():
    adapters = Adapters({"unet": Network()}, "unet", LoraSettings(), seed=0)
    adapters.choose_dropout(batch_of([(0, 0, 0)]))
    assert not adapters and adapters.matrices() == {}


def test_dropout_depends_on_the_key_and_not_on_the_split():
    network = Network()
    adapter = filled(adapter_of(network, dropout=0.5))
    keys, x = [(4, 0, 0), (4, 1, 0), (4, 2, 0)], given()
    adapter.choose_dropout(keys, seed=1)
    whole = network(x).numpy()
    for index, key in enumerate(keys):
        adapter.choose_dropout([key], seed=1)
        assert np.allclose(network(x[index : index + 1]).numpy(), whole[index : index + 1], atol=1e-6)
    adapter.choose_dropout([(5, 0, 0)] * 3, seed=1)
    assert not np.allclose(network(x).numpy(), whole)
    adapter.clear_dropout()
    plain = network(x).numpy()
    assert not np.allclose(plain, whole)


def test_dropout_keeps_the_mean_and_drops_its_share():
    """What is kept shows where the layer has a matrix of ones."""
    network = Network()
    adapter = adapter_of(network, rank=1, alpha=1.0, dropout=0.25)
    adapter.layers["to_q"].layer.down.weight.set_value(np.eye(6, 1, dtype=np.float32))  # the first feature alone
    adapter.layers["to_q"].layer.up.weight.set_value(np.ones((1, 4), np.float32))
    x = paddle.ones([4000, 1, 6])
    plain = network.other(x) * 0 + network.to_q(x) - 1  # without the adapter's share
    adapter.choose_dropout([(0, slot, 0) for slot in range(4000)], seed=0)
    kept = (network.to_q(x) - plain).numpy()[:, 0, 0]
    assert np.allclose(np.unique(kept.round(4)), [0, round(1 / 0.75, 4)], atol=1e-3)
    assert abs((kept < 0.5).mean() - 0.25) < 0.02 and abs(kept.mean() - 1) < 0.02


def batch_of(keys):
    """A micro-batch in which the class has another prompt."""
    view = View((8, 8), (8, 8))
    return MicroBatch(tuple(Example(key, picture=0, prompt=key[2], view=view) for key in keys))


def test_the_denoiser_drops_by_example_and_the_text_encoder_by_prompt(monkeypatch):
    seen = {}

    def stream(seed, purpose, *key):
        seen.setdefault(purpose, []).append(key)
        return real(seed, purpose, *key)

    adapters = Adapters({"unet": Network(), "text_encoder": Network()}, "unet", lora(dropout=0.5), seed=0)
    real = randomness.stream
    monkeypatch.setattr(randomness, "stream", stream)
    keys = [(7, 0, 0), (7, 1, 0), (7, 0, 1), (7, 1, 1)]
    adapters.choose_dropout(batch_of(keys))
    assert seen == {"lora dropout unet": keys, "lora dropout text_encoder": [(7, 0), (7, 1)]}
    seen.clear()
    adapters.choose_dropout(batch_of(keys[2:]))  # a micro-batch of the class alone
    assert seen == {"lora dropout unet": keys[2:], "lora dropout text_encoder": [(7, 1)]}


@pytest.mark.parametrize("model", ["twin", "velocity_twin", "bert_twin", "unidiffuser_twin"])
def test_every_architecture_has_attention_that_takes_gradients(model, request):
    """With gradient checkpointing too, where the model can do it."""
    twin = request.getfixturevalue(model)

    def gradients(checkpointing):
        family = load_family(twin, train_text_encoders=True)
        networks = family.learners()
        family.adapters = Adapters(networks, "unet", lora(), seed=0)
        for adapter in family.adapters.values():
            filled(adapter)
        family.prepare_training(checkpointing)
        encoding = family.encode_pictures(paddle.to_tensor(np.zeros((1, 3, 32, 32), np.float32)))
        latents = family.latents(encoding, paddle.zeros(encoding["mean"].shape))
        added = paddle.to_tensor(randomness.normal(0, "noise", [(0,)], tuple(latents.shape[1:])))
        steps = paddle.to_tensor(np.array([500]))
        noisy = diffusion_for(family.pipeline.scheduler).add_noise(latents, added, steps)
        prediction = family.predict(noisy, steps, family.encode_prompts(["a photo of sks dog"]))
        family.scaled_for_loss(prediction).square().mean().backward()
        for network in networks.values():
            assert all(each.grad is None and each.stop_gradient for each in network.parameters())
        return {
            f"{part}.{name}": each.grad.numpy()
            for part, adapter in family.trained().items()
            for name, each in adapter.named_parameters()
        }

    plain = gradients(checkpointing=False)
    assert {name.split(".")[0] for name in plain} == {"unet", "text_encoder"}
    assert all(np.abs(value).max() > 0 for value in plain.values())
    if model != "unidiffuser_twin":
        again = gradients(checkpointing=True)
        for name, value in plain.items():  # Paddle 2.6.2 adds up the gradients of a shared input in another order
            assert np.abs(value - again[name]).max() <= 1e-5 * np.abs(value).max(), name
