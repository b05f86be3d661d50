"""Which layers of the networks train: all, or a choice of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import paddle

from dreambooth.models import registry
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from paddle import Tensor, nn


def limit(networks: Mapping[str, nn.Layer], layers: Sequence[str] | None) -> None:
    """Freeze all layers of the networks but those that are chosen, by kind or by a pattern; None leaves all."""
    for parameter in _left_out(networks, layers):
        parameter.stop_gradient = True


def needs_input_gradient(layers: Sequence[str] | None) -> bool:
    """Check whether the network's input must have a gradient too, so that chosen layers get theirs.

    Paddle 2.6.2: the backward pass of a norm whose weights train fails where its input has no gradient ("Required
    tensor shall not be nullptr"). With a gradient of the input, it works. tests/training/test_scope.py trains a block
    that begins with a norm.
    """
    return layers is not None and paddle.__version__.startswith("2.")


def count(networks: Mapping[str, nn.Layer], layers: Sequence[str] | None) -> int:
    """Count the weights of the layers that are chosen."""
    every = sum(each.size for network in networks.values() for each in network.parameters())
    return int(every - sum(each.size for each in _left_out(networks, layers)))


def _left_out(networks: Mapping[str, nn.Layer], layers: Sequence[str] | None) -> list[Tensor]:
    found: list[Tensor] = []
    for part, network in networks.items() if layers is not None else ():
        owners = {name: layer for name, layer in network.named_sublayers() if layer.parameters(include_sublayers=False)}
        if not owners:  # new words, which all train
            continue
        chosen = registry.choose_layers(owners, layers or ())
        if not chosen:
            raise BadInput(f"--trained_layers {' '.join(layers or ())}: the {part} has no such layers")
        for layer in (network, *(layer for name, layer in owners.items() if name not in chosen)):
            found += layer.parameters(include_sublayers=False)
    return found
