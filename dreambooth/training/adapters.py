"""LoRA: two thin matrices beside each matrix of the attention learn, and nothing else (Hu et al. 2021,
arXiv 2106.09685).

The layers are the library's own, but they hang on the networks by hooks: a network, its weights and the names of its
weights stay as they are.
"""

import re

import numpy as np
import paddle
from paddle import nn
from ppdiffusers.models.lora import LoRALinearLayer

from dreambooth.system import randomness
from dreambooth.system.errors import BadInput

ATTENTION = re.compile(r"(^|\.)(to_q|to_k|to_v|to_out\.0|q_proj|k_proj|v_proj|out_proj|query|key|value)$")


class Adapters(nn.Layer):
    """All adapters of one network, at the places of a tree that has the names of the network's own.

    The dropout is a function of an example's place in the run: an example loses some features, at all of its tokens, so
    that it loses the same ones however a batch is split.
    """

    def __init__(self, part, network, rank, alpha, dropout, seed):
        super().__init__()
        self.part, self.rank, self.alpha, self.p = part, rank, alpha, dropout
        self.beside, self.adapters, self.hooks = {}, {}, []  # by the layer's name
        self.kept = {}  # {layer: [examples, 1, features]}
        for name, layer in network.named_sublayers():
            if ATTENTION.search(name) and isinstance(layer, nn.Linear):
                rows, columns = layer.weight.shape
                adapter = LoRALinearLayer(rows, columns, rank, network_alpha=alpha, dtype="float32")
                start = randomness.stream(seed, f"lora {part} {name}").standard_normal((rows, rank), np.float32)
                adapter.down.weight.set_value(start / rank)  # the spread that the library gives it
                self.put(name, adapter)
                self.beside[name] = layer
        if not self.adapters:
            raise BadInput(f"--lora_rank: the {part} has no attention that LoRA knows")
        self.put_on()

    def put(self, name, adapter):
        *way, last = name.split(".")
        place = self
        for step in way:
            if step not in place._sub_layers:
                place.add_sublayer(step, nn.Layer())
            place = place._sub_layers[step]
        place.add_sublayer(last, adapter)
        self.adapters[name] = adapter

    def adding(self, name):
        def hook(layer, inputs, output):
            hidden = inputs[0] * self.kept[name] if self.kept else inputs[0]
            # in half precision, attention's fast kernels want queries, keys and values in it
            return output + self.adapters[name](hidden).astype(output.dtype)

        return hook

    def drop(self, keys, seed):
        """Choose what each example loses: features of all layers' inputs, by a key of its own."""
        lengths = [adapter.in_features for adapter in self.adapters.values()]
        rows = [
            randomness.stream(seed, f"lora dropout {self.part}", *key).random(sum(lengths), np.float32) for key in keys
        ]
        kept = (np.stack(rows) >= self.p).astype(np.float32)[:, None] / (1 - self.p)
        parts = np.split(kept, np.cumsum(lengths)[:-1], axis=-1)
        self.kept = {name: paddle.to_tensor(part) for name, part in zip(self.adapters, parts)}

    def drop_nothing(self):
        self.kept = {}

    def matrices(self):
        """{layer: (down [rank, features], up [features, rank])} with the scale in the second."""
        scale = np.float32(self.alpha / self.rank)
        return {
            name: (adapter.down.weight.numpy().T, adapter.up.weight.numpy().T * scale)
            for name, adapter in self.adapters.items()
        }

    def put_on(self):
        self.hooks = [layer.register_forward_post_hook(self.adding(name)) for name, layer in self.beside.items()]

    def take_off(self):
        """Leave the network as it was."""
        for hook in self.hooks:
            hook.remove()


def put_on(networks, config):
    """{part: adapters} for networks whose own weights are not to learn."""
    return {
        part: Adapters(part, network, config.lora.lora_rank, config.lora.alpha, config.lora.dropout, config.run.seed)
        for part, network in networks.items()
    }


def drop(adapters, seed, batch):
    """Choose what the examples of a micro-batch lose. The text encoder sees each of their prompts once, so what is lost
    there goes by prompts."""
    update = batch.keys[0][0]
    for part, each in adapters.items():
        each.drop(batch.keys if part == "unet" else [(update, prompt) for prompt in batch.prompts], seed)
