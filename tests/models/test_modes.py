"""Networks whose weights train or not, and that drop nothing."""

from types import SimpleNamespace

import paddle
from paddle import nn

from dreambooth.models.family import modes


def network():
    layers = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4))
    layers.add_sublayer("other", nn.Layer())
    layers["other"].dropout = 0.1
    return layers


def trained(layers):
    return {name for name, each in layers.named_parameters() if not each.stop_gradient}


def test_weights_train_or_stay():
    layers = network()
    modes.freeze(layers)
    assert trained(layers) == set()
    modes.freeze(layers, frozen=False, untrained=["2"])
    assert trained(layers) == {"0.weight", "0.bias"}


def test_nothing_is_dropped_in_train_mode():
    layers = network()
    layers.train()
    modes.remove_dropout(layers)
    given = paddle.ones([1, 4])
    assert (layers[1](given) == given).all() and layers["other"].dropout == 0.0


def test_a_layer_whose_dropout_is_a_layer_keeps_it():
    holder = nn.Layer()
    holder.dropout = nn.Dropout(0.5)
    modes.remove_dropout(SimpleNamespace(sublayers=holder.sublayers))
    assert holder.dropout.p == 0.0
