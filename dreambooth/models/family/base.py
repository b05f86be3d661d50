"""The class of all families: a loaded model, whose networks have roles, for training and for drawing."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import paddle

from dreambooth.config import sections
from dreambooth.data import randomness
from dreambooth.models import saving, schedulers
from dreambooth.models.family import modes
from dreambooth.models.family.interfaces import Adapters
from dreambooth.models.family.spaces import Latents, Pixels
from dreambooth.system import libraries, machine
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from paddle import Tensor

    from dreambooth.config.commands import DrawSettings
    from dreambooth.config.run_sections import SaveFormat
    from dreambooth.data.concepts import View
    from dreambooth.models.family.facts import FamilyFacts
    from dreambooth.models.family.interfaces import Source, Words
    from dreambooth.system.types import Key, Network, Pipeline, Size, Tensors, Tokenizer


class Family(ABC):
    """A loaded model of one family. The rows of every tensor are prompts, pictures or examples."""

    facts: FamilyFacts
    enlargement = 1  # the sides of a picture, by those of the small one that the denoiser sees

    def __init__(self, pipeline: Pipeline, source: Source, train_text_encoders: bool = False) -> None:
        self.pipeline = pipeline  # the library's; a freed part is None
        self.facts = self.facts.without(part for part in self.facts.lackable if getattr(pipeline, part) is None)
        self.source, self.train_text_encoders = source, train_text_encoders
        self.space = Latents(self.decoder, pipeline.vae_scale_factor) if self.facts.decoder else Pixels()
        self.adapters = Adapters()
        self.words: Words | None = None  # that are learned
        self.split = machine.use_cores(self.denoiser.parameters())

    @property
    def denoiser(self) -> Network:
        """The network that predicts the noise."""
        return getattr(self.pipeline, self.facts.denoiser)

    @property
    def decoder(self) -> Any:  # noqa: ANN401  the library's
        """What makes pixels of latents, unless they are the same, or it is freed."""
        return getattr(self.pipeline, self.facts.decoder) if self.facts.decoder else None

    @property
    def tokenizers(self) -> list[Tokenizer]:
        """Those whose words can be an identifier: CLIP's, or else the one that reads the prompts."""
        return [getattr(self.pipeline, part) for part in self.facts.tokenizers]

    @property
    def default_size(self) -> Size:
        """The size that the model was made for."""
        side, factor = self.denoiser.config.sample_size, self.space.factor
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        return height * factor, width * factor

    @property
    def size_step(self) -> int:
        """The number of pixels of which sizes are multiples, so that every network within gets whole places."""
        return self.space.factor * 2 ** (len(self.denoiser.config.block_out_channels) - 1)

    # what differs in every family

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Tensors:
        """Encode prompts: "hidden" [prompts, tokens, width], and what else the denoiser takes of them."""

    @abstractmethod
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Tensors) -> Tensor:
        """Predict the diffusion's target [n, …] from noisy latents at the timesteps [n]."""

    # what differs in some families

    def encode_pictures(self, pixels: Tensor, mask: Tensor | None = None) -> Tensors:
        """Encode pixels [n, 3, height, width]: "mean", and what else latents() and conditioning() take.

        `mask` [n, 1, height, width] is for families that paint into a picture.
        """
        return self.space.encode(self.decoder, pixels)

    def latents(self, encoding: Tensors, noise: Tensor) -> Tensor:
        """Draw clean latents [n, …] from encoded pictures with noise of the shape of "mean"."""
        return self.space.draw(encoding, noise)

    def conditioning(self, prompts: Tensors, encoding: Tensors, views: Sequence[View]) -> Tensors:
        """Put together what predict() takes of the examples beside their latents."""
        return prompts

    def scaled_for_loss(self, values: Tensor) -> Tensor:
        """Scale a prediction, or a target, by the root of each value's weight in the mean of their squared error."""
        return values

    def untrained_layers(self) -> Mapping[str, Sequence[str]]:
        """Map a part to its layers that see no gradient, which an optimizer's decay would change."""
        return self.facts.untrained_layers

    def check_training(self, size: Size, gradient_checkpointing: bool) -> None:
        """Refuse training settings that the model cannot take."""
        for name, side in zip(("height", "width"), size):
            if side % self.space.factor:
                raise BadInput(f"--{name} {side}: must be a multiple of {self.space.factor}, the model's factor")

    def check_drawing(self, settings: DrawSettings) -> None:
        """Refuse settings that the model cannot draw with."""
        factor = max(8, self.space.factor)
        for name, side in zip(("height", "width"), settings.size):
            if side <= 0 or side % factor:
                raise BadInput(f"--{name} {side}: must be a positive multiple of {factor}")
        most = self.pipeline.scheduler.config.num_train_timesteps
        if settings.steps > most:
            raise BadInput(f"{settings.steps_flag} {settings.steps}: the model has {most}")

    @paddle.no_grad()
    def prompt_arguments(self, prompts: Sequence[str], negative: str | None, guided: bool) -> dict[str, Any]:
        """Name prompts as the pipeline takes them; each value has a row or an item for each prompt."""
        others = negative and [negative] * len(prompts)
        positive, negatives = self.pipeline.encode_prompt(list(prompts), 1, guided, others)
        return {"prompt_embeds": positive, **({"negative_prompt_embeds": negatives} if guided else {})}

    def first_latents(self, seed: int, purpose: str, keys: Sequence[Key], size: Size) -> dict[str, Tensor]:
        """Draw the noise that pictures begin as, named as the pipeline takes it."""
        return {"latents": self._first_noise(seed, purpose, keys, self.space.shape(size))}

    def single_file_layout(self) -> dict[str, Any]:
        """Return what files.single_file has to know of the model."""
        raise saving.no_single_file(self.facts.pipeline)

    def finish_folder(self, folder: Path, save_format: SaveFormat) -> None:  # noqa: B027  most have nothing to do
        """Change a folder that the library wrote to what other tools expect."""

    # the roles

    def networks(self) -> dict[str, Network]:
        """Map each part that has weights, and is in memory, to its network."""
        return self._parts(self.facts.networks)

    def learners(self) -> dict[str, Network]:
        """Map each part that trains, itself or by a LoRA, to its network."""
        return self._parts((self.facts.denoiser, *(self.facts.text_encoders if self.train_text_encoders else ())))

    def trained(self) -> dict[str, Network]:
        """Map each part that trains to what trains there: its network or its LoRA; and the new words, if any."""
        words = {sections.WORDS: self.words} if self.words else {}
        return words if self.words and self.words.is_alone else {**self.learners(), **self.adapters, **words}

    @property
    def changes_prompts(self) -> bool:
        """Whether the encodings of prompts change as the training goes on."""
        return self.train_text_encoders or self.words is not None

    def prepare_training(self, gradient_checkpointing: bool) -> None:
        """Let gradients flow into what trains alone. No dropout: it would depend on the split of a batch."""
        trained, untrained = self.trained(), self.untrained_layers()
        for part, network in self.networks().items():
            network.eval()
            is_frozen = trained.get(part) is not network
            modes.freeze(network, is_frozen, () if is_frozen else untrained.get(part, ()))
        if gradient_checkpointing:  # which needs train mode
            for part, network in self.learners().items():
                if part == self.facts.denoiser:
                    network.enable_gradient_checkpointing()
                else:
                    network.gradient_checkpointing_enable()
                network.train()
                modes.remove_dropout(network)

    def free_encoders(self, pictures: bool = True) -> None:
        """Free what training does not need once prompts, and pictures too if so, are encoded."""
        encoders = set(self.facts.picture_encoders if pictures else ())
        if not self.changes_prompts:
            encoders |= set(self.facts.prompt_encoders)
        for part in encoders:
            setattr(self.pipeline, part, None)
        libraries.release_memory()

    def whole(self, scheduler: str | None = None) -> Family:
        """Copy the family with all parts, freed ones loaded again, and with another scheduler; networks are shared."""
        self.adapters.clear_dropout()
        family, parts = copy.copy(self), self._parts(self.pipeline.components)
        if parts.keys() >= self.facts.parts.keys():
            family.pipeline = copy.copy(self.pipeline)
        else:
            modes = [(network, network.training) for network in self.learners().values()]
            family.pipeline = self.source.load_pipeline(**parts)
            for network, training in modes:  # loading puts everything into eval mode
                network.train() if training else network.eval()
        if scheduler:
            schedulers.set_scheduler(family.pipeline, scheduler)
        return family

    def save(self, folder: Path, save_format: SaveFormat) -> None:
        """Write the whole pipeline into a folder; its scheduler is the source's, as it was."""
        pipeline = self.whole().pipeline
        settings = self.source.scheduler_settings(pipeline.scheduler)
        pipeline.scheduler = schedulers.as_saved(pipeline.scheduler, settings)
        saving.save(pipeline, folder, save_format)
        self.finish_folder(folder, save_format)

    # shared by the families

    def _parts(self, names: Iterable[str]) -> dict[str, Network]:
        parts = {name: getattr(self.pipeline, name) for name in names}
        return {name: part for name, part in parts.items() if part is not None}

    def _first_noise(self, seed: int, purpose: str, keys: Sequence[Key], shape: tuple[int, ...]) -> Tensor:
        return paddle.to_tensor(randomness.normal(seed, purpose, keys, shape)).astype(self.denoiser.dtype)
