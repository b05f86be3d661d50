"""LoRA: two thin matrices beside each matrix of the attention train in its place (Hu et al. 2021, arXiv 2106.09685).

The layers are the library's own, but they hang on the networks by hooks: a network, its weights and their names stay as
they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import paddle
from paddle import nn
from ppdiffusers.models.lora import LoRALinearLayer

from dreambooth.data import randomness
from dreambooth.models.families import interfaces
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from paddle import Tensor

    from dreambooth.config.sections import LoraSettings, LoraTarget
    from dreambooth.data.concepts import MicroBatch
    from dreambooth.system.types import Array, Key

# which linear layers a LoRA adapts, by their names in a UNet, CLIP or BERT
TARGETS: dict[LoraTarget, re.Pattern[str]] = {
    "attention": re.compile(r"(^|\.)(to_q|to_k|to_v|to_out\.0|q_proj|k_proj|v_proj|out_proj|query|key|value)$"),
}


class Adapter(nn.Layer):
    """The LoRA of one network: a tree of layers with the names of the layers that they adapt.

    Its dropout depends on the keys of the rows alone: a row loses some features, at all of its tokens, so that it loses
    the same ones however a batch is split.
    """

    def __init__(self, part: str, network: nn.Layer, settings: LoraSettings, seed: int) -> None:
        super().__init__()
        self.part, self._dropout = part, settings.dropout
        self.layers: dict[str, LoRALinearLayer] = {}  # by the name of the layer that each adapts
        self._adapted: dict[str, nn.Layer] = {}
        self._hooks: list[nn.layer.layers.HookRemoveHelper] = []
        self._kept: dict[str, Tensor] = {}  # {layer: [rows, 1, features]}, scaled; empty without dropout
        rank = settings.lora_rank or 0
        self._scale = np.float32(settings.alpha / rank)
        for name, layer in network.named_sublayers():
            if TARGETS["attention"].search(name) and isinstance(layer, nn.Linear):
                rows, columns = layer.weight.shape
                adapter = LoRALinearLayer(rows, columns, rank, network_alpha=settings.alpha, dtype="float32")
                start = randomness.stream(seed, f"lora {part} {name}").standard_normal((rows, rank), np.float32)
                adapter.down.weight.set_value(start / rank)  # the spread that the library gives it
                self._put(name, adapter)
                self._adapted[name] = layer
        if not self.layers:
            raise BadInput(f"--lora_rank: the {part} has no attention that LoRA can adapt; train without a LoRA")
        self.attach()

    def attach(self) -> None:
        """Add the adapted layers' share to their outputs."""
        self.detach()
        self._hooks = [layer.register_forward_post_hook(self._hook(name)) for name, layer in self._adapted.items()]

    def detach(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def choose_dropout(self, keys: Sequence[Key], seed: int) -> None:
        """Choose the features of all layers' inputs that each row loses, by its key."""
        lengths = [adapter.in_features for adapter in self.layers.values()]
        purpose = f"lora dropout {self.part}"
        rows = [randomness.stream(seed, purpose, *key).random(sum(lengths), np.float32) for key in keys]
        kept = (np.stack(rows) >= self._dropout).astype(np.float32)[:, None] / (1 - self._dropout)
        parts = np.split(kept, np.cumsum(lengths)[:-1], axis=-1)
        self._kept = {name: paddle.to_tensor(part) for name, part in zip(self.layers, parts)}

    def clear_dropout(self) -> None:
        """Keep all features."""
        self._kept = {}

    def matrices(self) -> dict[str, tuple[Array, Array]]:
        """Return (down [rank, features], up [features, rank]) of each layer, the scale in the second."""
        return {
            name: (adapter.down.weight.numpy().T, adapter.up.weight.numpy().T * self._scale)
            for name, adapter in self.layers.items()
        }

    def _put(self, name: str, adapter: LoRALinearLayer) -> None:
        """Add a layer to the tree under its dotted name."""
        *path, last = name.split(".")
        parent: nn.Layer = self
        for step in path:
            if step not in dict(parent.named_children()):
                parent.add_sublayer(step, nn.Layer())
            parent = dict(parent.named_children())[step]
        parent.add_sublayer(last, adapter)
        self.layers[name] = adapter

    def _hook(self, name: str) -> Callable[[nn.Layer, Sequence[Tensor], Tensor], Tensor]:
        def add(layer: nn.Layer, inputs: Sequence[Tensor], output: Tensor) -> Tensor:
            hidden = inputs[0] * self._kept[name] if self._kept else inputs[0]
            # in half precision, attention's fast kernels need queries, keys and values in it
            return output + self.layers[name](hidden).astype(output.dtype)

        return add


class Adapters(interfaces.Adapters):
    """The LoRA of a run by part; empty without --lora_rank."""

    def __init__(self, networks: Mapping[str, nn.Layer], denoiser: str, settings: LoraSettings, seed: int) -> None:
        adapted = networks if settings.lora_rank else {}
        super().__init__({part: Adapter(part, network, settings, seed) for part, network in adapted.items()})
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
