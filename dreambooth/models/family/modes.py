"""The modes of a network's layers: whether their weights train, and whether they drop something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paddle import nn

if TYPE_CHECKING:
    from collections.abc import Collection

    from dreambooth.system.types import Network


def freeze(network: Network, frozen: bool = True, untrained: Collection[str] = ()) -> None:
    """Let a network's weights be as they are, or train; the layers of these names never train."""
    for parameter in network.parameters():
        parameter.stop_gradient = frozen
    for name, layer in network.named_sublayers() if untrained else ():
        if name in untrained:
            freeze(layer)


def remove_dropout(network: Network) -> None:
    """Let a network drop nothing in its train mode."""
    for layer in network.sublayers():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        elif isinstance(vars(layer).get("dropout"), float):
            layer.dropout = 0.0
