"""The layers beside those of a network: products and convolutions, with and without the lengths of DoRA."""

import numpy as np
import paddle
import pytest
from paddle import nn

from dreambooth.files.lora import Matrices
from dreambooth.models import loading
from dreambooth.training.lora.adapted_layers import AdaptedLayer, Shape

LAYERS = {
    "product": lambda: nn.Linear(6, 5),
    "product without bias": lambda: nn.Linear(6, 5, bias_attr=False),
    "convolution": lambda: nn.Conv2D(6, 5, 3, padding=1),
    "convolution with stride": lambda: nn.Conv2D(6, 5, 3, stride=2, padding=1, bias_attr=False),
    "convolution of one place": lambda: nn.Conv2D(6, 5, 1),
}
INPUTS = {"product": (2, 3, 6), "convolution": (2, 6, 8, 8)}


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def adapted(name, with_lengths=False, rank=2, scale=1.5, is_recorded=False):
    """A layer with what stands beside it, both with random weights."""
    layer = LAYERS[name]()
    for number, parameter in enumerate(layer.parameters()):
        parameter.set_value(normal(parameter.shape, number))
    beside = AdaptedLayer(layer, Shape(rank, scale, is_recorded), with_lengths, lambda shape: normal(shape, 5))
    return layer, beside


def inputs_of(name):
    return paddle.to_tensor(normal(INPUTS[name.split()[0]], 9))


def with_share(layer, beside, inputs):
    return beside.add(inputs, layer(inputs))


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_at_the_start_it_changes_nothing(name, with_lengths):
    layer, beside = adapted(name, with_lengths)
    inputs = inputs_of(name)
    np.testing.assert_allclose(with_share(layer, beside, inputs).numpy(), layer(inputs).numpy(), atol=1e-5)


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_merged_the_layer_computes_the_same(name, with_lengths):
    layer, beside = adapted(name, with_lengths)
    beside.layer.up.weight.set_value(normal(beside.layer.up.weight.shape, 6))
    if with_lengths:
        beside.layer.magnitude.set_value(1 + np.abs(normal([5], 7)))
    inputs = inputs_of(name)
    expected, plain = with_share(layer, beside, inputs).numpy(), layer(inputs).numpy()
    assert np.abs(expected - plain).max() > 0.1
    network = nn.Layer()
    network.add_sublayer("layer", layer)
    loading.merge({"unet": network}, {"unet": {"layer": beside.matrices()}})
    np.testing.assert_allclose(layer(inputs).numpy(), expected, atol=1e-5 * np.abs(expected).max())


def test_dora_is_the_formula_of_its_paper():
    """Liu et al. 2024, equation 5: lengths times the unit columns of W + BA; of Paddle's products they are columns."""
    layer, beside = adapted("product", with_lengths=True)
    beside.layer.up.weight.set_value(normal([2, 5], 6))
    beside.layer.magnitude.set_value(normal([5], 7))
    changed = layer.weight.numpy() + 1.5 * beside.layer.down.weight.numpy() @ beside.layer.up.weight.numpy()
    weight = beside.layer.magnitude.numpy() * changed / np.linalg.norm(changed, axis=0)
    inputs = inputs_of("product")
    expected = inputs.numpy() @ weight + layer.bias.numpy()
    np.testing.assert_allclose(with_share(layer, beside, inputs).numpy(), expected, atol=1e-4)


def test_the_lengths_of_dora_train_too_and_no_gradient_goes_through_their_divisor():
    layer, beside = adapted("product", with_lengths=True)
    beside.layer.up.weight.set_value(normal([2, 5], 6))
    with_share(layer, beside, inputs_of("product")).sum().backward()
    assert all(np.abs(each.grad.numpy()).max() > 0 for each in beside.layer.parameters())
    names = {name for name, _ in beside.layer.named_parameters()}
    assert names == {"down.weight", "up.weight", "magnitude"}
    # the gradient of `up` is that of a product that is scaled by a constant
    factor = beside.layer.magnitude.numpy() / np.linalg.norm(
        layer.weight.numpy() + 1.5 * beside.layer.down.weight.numpy() @ beside.layer.up.weight.numpy(), axis=0
    )
    hidden = inputs_of("product").numpy().reshape(-1, 6) @ beside.layer.down.weight.numpy()
    expected = 1.5 * hidden.sum(0)[:, None] * factor[None]
    np.testing.assert_allclose(beside.layer.up.weight.grad.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("name, inputs", [("product", (3, 6)), ("product", (3, 4, 6)), ("convolution", (3, 6, 8, 8))])
def test_a_row_loses_features_at_all_of_its_places(name, inputs):
    _, beside = adapted(name)
    kept = np.ones((3, 6), np.float32)
    kept[1, 4] = 0
    found = beside.dropped(paddle.ones(inputs), paddle.to_tensor(kept)).numpy()
    features = found if name == "convolution" else np.moveaxis(found, -1, 1)
    assert not features[1, 4].any() and features.sum() == features.size - features[1, 4].size


def test_the_output_at_the_start_is_no_larger_for_a_larger_kernel():
    spreads = []
    for name in ("convolution of one place", "convolution"):
        _, beside = adapted(name, rank=64)
        beside.layer.up.weight.set_value(np.eye(5, 64, dtype=np.float32)[:, :, None, None])
        spreads.append(float(beside.layer(paddle.to_tensor(normal((8, 6, 9, 9)))).std()))
    assert spreads[1] == pytest.approx(spreads[0], rel=0.3)


def test_a_scale_of_its_own_is_in_the_state_and_trains_not():
    _, beside = adapted("product", is_recorded=True)
    assert float(beside.layer.state_dict()["alpha"]) == pytest.approx(3.0)  # scale times rank
    assert "alpha" not in {name for name, _ in beside.layer.named_parameters()}
    assert "alpha" not in adapted("product")[1].layer.state_dict()


def test_an_output_whose_weights_are_zero_stays_so():
    layer = nn.Linear(6, 5, bias_attr=False)
    layer.weight.set_value(np.where(np.arange(5) == 2, 0, normal([6, 5])))
    beside = AdaptedLayer(layer, Shape(2, 1.0), True, lambda shape: normal(shape, 5))
    inputs = inputs_of("product")
    np.testing.assert_allclose(with_share(layer, beside, inputs).numpy(), layer(inputs).numpy(), atol=1e-5)
    network = nn.Layer()
    network.add_sublayer("layer", layer)
    before = layer.weight.numpy().copy()
    loading.merge({"unet": network}, {"unet": {"layer": beside.matrices()}})
    np.testing.assert_allclose(layer.weight.numpy(), before, atol=1e-6)


def test_a_share_of_a_dora_is_a_share_of_its_whole_change():
    layer, beside = adapted("product", with_lengths=True)
    before, network = layer.weight.numpy().copy(), nn.Layer()
    network.add_sublayer("layer", layer)
    down, up, _ = beside.matrices()
    dora = {"unet": {"layer": Matrices(down, normal(up.shape, 6), 1 + np.abs(normal([5], 7)))}}
    loading.merge({"unet": network}, dora)
    whole = layer.weight.numpy() - before
    layer.weight.set_value(before)
    loading.merge({"unet": network}, dora, scale=0.25)
    np.testing.assert_allclose(layer.weight.numpy() - before, whole / 4, atol=1e-5)
