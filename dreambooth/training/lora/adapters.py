"""LoRA: two thin matrices beside each of some layers train in their place (Hu et al. 2021, arXiv 2106.09685).

The layers are the library's own, but they hang on the networks by hooks: a network, its weights and their names stay as
they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import paddle
from paddle import nn

from dreambooth.data import randomness
from dreambooth.models import registry
from dreambooth.models.family import interfaces
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override
from dreambooth.training.lora.adapted_layers import AdaptedLayer, Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from paddle import Tensor

    from dreambooth.config.learning_sections import LoraSettings
    from dreambooth.data.concepts import MicroBatch
    from dreambooth.files.lora import Matrices
    from dreambooth.system.types import Array, Key


class Adapter(nn.Layer):
    """The LoRA of one network: a tree of layers with the names of the layers that they adapt.

    Its dropout depends on the keys of the rows alone: a row loses some features, at all of its tokens, so that it loses
    the same ones however a batch is split.
    """

    def __init__(
        self, part: str, network: nn.Layer, settings: LoraSettings, seed: int, untrained: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.part, self._dropout = part, settings.dropout
        self.layers: dict[str, AdaptedLayer] = {}  # by the name of the layer that each adapts
        self._hooks: list[nn.layer.layers.HookRemoveHelper] = []
        self._kept: dict[str, Tensor] = {}  # {layer: [rows, features]}, scaled; empty without dropout
        found = registry.choose_layers(
            [name for name, layer in network.named_sublayers() if isinstance(layer, (nn.Linear, nn.Conv2D))],
            settings.targets,
            untrained,
        )
        if not found:
            raise BadInput(
                f"--lora_targets {' '.join(settings.targets)}: the {part} has no such layers; add attention"
                if settings.lora_targets
                else f"--lora_rank: the {part} has no attention that LoRA can adapt; train without a LoRA"
            )
        layers = dict(network.named_sublayers())
        for name, target in found.items():
            stream = randomness.stream(seed, f"lora {part} {name}")

            def draw(shape: tuple[int, ...], stream: np.random.Generator = stream) -> Array:
                return stream.standard_normal(shape, np.float32)

            shape = Shape(settings.rank_of(target), settings.scale_of(target), settings.has_scales)
            self._put(name, AdaptedLayer(layers[name], shape, settings.use_dora, draw))
        self.attach()

    def attach(self) -> None:
        """Add the adapted layers' share to their outputs."""
        self.detach()
        self._hooks = [each.adapted.register_forward_post_hook(self._hook(name)) for name, each in self.layers.items()]

    def detach(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def choose_dropout(self, keys: Sequence[Key], seed: int) -> None:
        """Choose the features of all layers' inputs that each row loses, by its key."""
        lengths = [each.inputs for each in self.layers.values()]
        purpose = f"lora dropout {self.part}"
        rows = [randomness.stream(seed, purpose, *key).random(sum(lengths), np.float32) for key in keys]
        kept = (np.stack(rows) >= self._dropout).astype(np.float32) / (1 - self._dropout)
        parts = np.split(kept, np.cumsum(lengths)[:-1], axis=-1)
        self._kept = {name: paddle.to_tensor(part) for name, part in zip(self.layers, parts)}

    def clear_dropout(self) -> None:
        """Keep all features."""
        self._kept = {}

    def matrices(self) -> dict[str, Matrices]:
        """Return the matrices of each layer, the scale in the second."""
        return {name: each.matrices() for name, each in self.layers.items()}

    def _put(self, name: str, adapted: AdaptedLayer) -> None:
        """Add a layer to the tree under its dotted name."""
        *path, last = name.split(".")
        parent: nn.Layer = self
        for step in path:
            if step not in dict(parent.named_children()):
                parent.add_sublayer(step, nn.Layer())
            parent = dict(parent.named_children())[step]
        parent.add_sublayer(last, adapted.layer)
        self.layers[name] = adapted

    def _hook(self, name: str) -> Callable[[nn.Layer, Sequence[Tensor], Tensor], Tensor]:
        adapted = self.layers[name]

        def add(layer: nn.Layer, inputs: Sequence[Tensor], output: Tensor) -> Tensor:
            return adapted.add(adapted.dropped(inputs[0], self._kept[name]) if self._kept else inputs[0], output)

        return add


class Adapters(interfaces.Adapters):
    """The LoRA of a run by part; empty without --lora_rank."""

    def __init__(
        self,
        networks: Mapping[str, nn.Layer],
        denoiser: str,
        settings: LoraSettings,
        seed: int,
        untrained: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        adapted, frozen = networks if settings.lora_rank else {}, untrained or {}
        super().__init__(
            {part: Adapter(part, each, settings, seed, frozen.get(part, ())) for part, each in adapted.items()}
        )
        self._denoiser, self._dropout, self._seed = denoiser, settings.dropout, seed

    @override
    def choose_dropout(self, batch: MicroBatch) -> None:
        """Choose the features that the rows of a micro-batch lose in the next passes.

        The denoiser's rows are examples. A text encoder's are the prompts of the micro-batch, each once.
        """
        if not self._dropout:
            return
        update = batch.keys[0][0]
        by_prompt = [(update, prompt) for prompt in batch.prompts]
        for part, adapter in self.items():
            adapter.choose_dropout(batch.keys if part == self._denoiser else by_prompt, self._seed)
