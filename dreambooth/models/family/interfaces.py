"""The interfaces of the classes that a family works with: the origin of its model, its adapters, its new words."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dreambooth.data.concepts import MicroBatch
    from dreambooth.files.lora import Layers
    from dreambooth.system.types import Arrays, Key, Pipeline, Scheduler


class Source(Protocol):
    """The origin of a model, from which its parts can be loaded again."""

    @property
    def name(self) -> str:
        """A folder, or a name on the hub."""

    @property
    def without_t5(self) -> bool:
        """Whether the model is loaded without the parts that it may lack."""

    def fingerprint(self) -> str:
        """Summarize the model by its files."""

    def load_pipeline(self, **parts: Any) -> Pipeline:
        """Load the library's pipeline, except for the parts that are given."""

    def scheduler_settings(self, scheduler: Scheduler) -> dict[str, Any]:
        """Read the model's own settings of its scheduler."""


class Adapter(Protocol):
    """The layers that train beside one network, as those of a LoRA do."""

    def attach(self) -> None:
        """Add the layers' share to the network's outputs."""

    def detach(self) -> None:
        """Leave the network as it was."""

    def choose_dropout(self, keys: Sequence[Key], seed: int) -> None:
        """Choose the features of the layers' inputs that each row loses, by its key."""

    def clear_dropout(self) -> None:
        """Keep all features."""

    def matrices(self) -> Layers:
        """Return the matrices of each layer, the scale in the second."""


class Words(Protocol):
    """The new words of a run, whose vectors train."""

    is_alone: bool  # nothing else trains
    widths: Sequence[int]  # how many numbers of a vector each text encoder takes

    def vectors(self) -> Arrays:
        """Return the vector [width of all text encoders] of each word."""


class Adapters(dict[str, Adapter]):
    """The adapters of a family by part; empty without a LoRA."""

    def attach(self) -> None:
        """Add the share of every adapter to the outputs of its network."""
        for adapter in self.values():
            adapter.attach()

    def detach(self) -> None:
        """Leave the networks as they were."""
        for adapter in self.values():
            adapter.detach()

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Leave the networks as they were, within the context."""
        self.detach()
        try:
            yield
        finally:
            self.attach()

    def choose_dropout(self, batch: MicroBatch) -> None:
        """Choose the features that the rows of a micro-batch lose in the next passes: none without a LoRA."""

    def clear_dropout(self) -> None:
        """Keep all features."""
        for adapter in self.values():
            adapter.clear_dropout()

    def matrices(self) -> dict[str, Layers]:
        """Return the matrices of each layer of each part, the scale in the second."""
        return {part: adapter.matrices() for part, adapter in self.items()}
