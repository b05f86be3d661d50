"""What of a network learns: gradients switched on and off, and no dropout, whose randomness would depend on the split
of a batch."""

import paddle
from paddle import nn


def freeze(network, frozen=True):
    if network is not None:
        for parameter in network.parameters():
            parameter.stop_gradient = frozen


def without_dropout(network):
    for layer in network.sublayers():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        elif isinstance(vars(layer).get("dropout"), float):
            layer.dropout = 0.0


def empty_cache():
    """Give a card's memory back that was freed."""
    if paddle.device.is_compiled_with_cuda():
        paddle.device.cuda.empty_cache()
