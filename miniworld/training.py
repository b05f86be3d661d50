"""The training loop for networks from scratch: resumable, over several processes, with averaged weights."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import paddle

from dreambooth.files import atomic, safetensors
from dreambooth.system import console, processes
from dreambooth.system.patches import layers
from dreambooth.training import updates as training_updates
from dreambooth.training.optimizers import table as optimizers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from paddle import Tensor

    from dreambooth.system.types import Array, Network

    # the loss of some slots of an update's global batch, and numbers to show
    LossFunction = Callable[[int, Sequence[int]], tuple[Tensor, Mapping[str, Tensor | float]]]

SAVE_EVERY = 300  # seconds


@dataclass(frozen=True)
class Recipe:
    """The length and the learning rate of a training."""

    updates: int
    batch: int  # of all processes together
    rate: float
    warmup: int = 100
    cooldown: float = 0.3  # the share of the updates at the end in which the rate falls to 0
    decay: float = 0.01
    average: float = 0.999  # the share of the averaged weights that an update keeps

    def rate_at(self, update: int) -> float:
        """Return the learning rate of an update."""
        left = (self.updates - update) / max(1, self.cooldown * self.updates)
        return self.rate * min(1.0, (update + 1) / self.warmup, left)


class Training:
    """A network with its optimizer and its averaged weights, and a folder with their checkpoint."""

    def __init__(self, name: str, network: Network, recipe: Recipe, folder: Path) -> None:
        self.name, self.network, self.recipe = name, network, recipe
        self.folder = folder / f"{name}-state"
        self.parameters = {key: each for key, each in network.named_parameters() if not each.stop_gradient}
        self.average = {key: each.clone().detach() for key, each in self.parameters.items()}
        without_decay = {each.name for key, each in self.parameters.items() if "embed" in key or key.endswith("bias")}
        self.adamw = paddle.optimizer.AdamW(
            learning_rate=recipe.rate,
            beta2=0.99,
            parameters=list(self.parameters.values()),
            weight_decay=recipe.decay,
            # the embedding of a word that the world never uses keeps its initial value
            apply_decay_param_fun=lambda name: name not in without_decay,
        )
        self.update = 0

    def run(self, loss_of: LossFunction) -> None:
        """Make the remaining updates, from the checkpoint on; the network ends with the averaged weights.

        Raises FloatingPointError where the loss or a weight is not finite.
        """
        self.restore()
        slots = list(processes.share(self.recipe.batch))
        saved = time.monotonic()
        shown: dict[str, str] = {}
        bar = console.progress_bar(
            range(self.update, self.recipe.updates), initial=self.update, total=self.recipe.updates, desc=self.name
        )
        for update in bar:
            loss, numbers = loss_of(update, slots)
            with layers.errors_of_python():
                loss.backward()
            processes.average_gradients(self.parameters.values())
            training_updates.gradient_norm(self.parameters.values(), max_norm=1.0)
            self.adamw.set_lr(self.recipe.rate_at(update))
            self.adamw.step()
            self.adamw.clear_grad()
            self._follow(update)
            self.update = update + 1
            if update % 10 == 0:
                for key, value in processes.mean({"loss": loss, **numbers}).items():
                    if not math.isfinite(value):
                        raise FloatingPointError(f"{self.name}: {key} is {value} at update {update}")
                    shown[key] = f"{0.9 * float(shown.get(key, value)) + 0.1 * value:.4f}"
                bar.set_postfix(shown, refresh=False)
                if processes.is_true_anywhere(time.monotonic() - saved > SAVE_EVERY):
                    self._save()
                    saved = time.monotonic()
        for key, each in self.parameters.items():
            if not bool(paddle.isfinite(each).all()):
                raise FloatingPointError(f"{self.name}: {key} is not finite after update {self.update}")
        self._save()
        self.use_average()

    @paddle.no_grad()
    def restore(self) -> None:
        """Read the checkpoint, if there is one."""
        if not self.folder.is_dir():
            return
        tensors = safetensors.Reader(self.folder / "state.safetensors")
        for key, each in self.parameters.items():
            each.set_value(tensors[f"{key}:weight"])
            self.average[key] = paddle.to_tensor(tensors[f"{key}:average"])
        names = self._accumulator_names().items()
        self.adamw.set_state_dict({own: paddle.to_tensor(tensors[name]) for name, own in names if name in tensors})
        self.update = atomic.read_json(self.folder / "state.json")["update"]

    @paddle.no_grad()
    def use_average(self) -> None:
        """Give the network the averaged weights."""
        for key, each in self.parameters.items():
            each.set_value(self.average[key])

    def _accumulator_names(self) -> dict[str, str]:
        """Map the name of each accumulator in the checkpoint to the optimizer's own."""
        return optimizers.OPTIMIZERS["adamw"].accumulator_names(self.parameters, separator=":")

    def _save(self) -> None:
        if not processes.is_first():
            return
        state = self.adamw.state_dict()
        tensors = {name: state[own] for name, own in self._accumulator_names().items() if own in state}
        for key, each in self.parameters.items():
            tensors[f"{key}:weight"], tensors[f"{key}:average"] = each, self.average[key]
        with atomic.whole_folder(self.folder) as temporary:
            safetensors.write(temporary / "state.safetensors", tensors)
            atomic.write_json(temporary / "state.json", {"update": self.update})

    @paddle.no_grad()
    def _follow(self, update: int) -> None:
        """Move the averaged weights towards the weights, by a larger share in the first updates."""
        keep = min(self.recipe.average, (1 + update) / (10 + update))
        for key, each in self.parameters.items():
            self.average[key].scale_(keep).add_(each.detach() * (1 - keep))


def scale_pixels(pictures: Array) -> Tensor:
    """Return uint8 pictures [n, height, width, 3] as the networks' input: [n, 3, height, width] in -1 .. 1."""
    return paddle.to_tensor(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)).astype(np.float32) / 127.5 - 1)
