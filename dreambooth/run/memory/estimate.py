"""The peak memory of a run, from the sizes of its networks and its settings, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dreambooth.run.memory import pieces
from dreambooth.system.patches.attention_parts import MANY_SCORES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dreambooth.config.config import Config
    from dreambooth.config.learning_sections import LayerKind, LoraSettings
    from dreambooth.run.memory.pieces import Piece
    from dreambooth.run.memory.sizes import Sizes

_BYTES, _HALF = 4, 2  # of a number in float32, and in half precision
# of the libraries, measured on a CPU; a card has a context and work spaces, whose size is not more than a guess
_LIBRARIES, _CONTEXT = 0.45e9, 0.8e9
# on a CPU, free memory between the activations, as a share of these; measured at full size, at 256 and 512 pixels
_SCATTERED = 0.85
# the numbers that a lean optimizer has at once for each weight of the largest layer; measured too
_LEAN, _MOMENTS = 2.5, 8


class Stage(NamedTuple):
    """A time of the run, and its peak in bytes."""

    name: str
    kept: float  # weights, the optimizer's state, averages
    passing: float  # gradients and activations

    @property
    def total(self) -> float:
        """All of them."""
        return self.kept + self.passing


class Place(NamedTuple):
    """What a run computes on."""

    is_card: bool
    most_scores: float  # that an attention keeps for its backward pass; with more of them it keeps none


CPU, CARD = Place(is_card=False, most_scores=MANY_SCORES), Place(is_card=True, most_scores=0)


def peak(config: Config, sizes: Sizes, place: Place, state: float) -> Stage:
    """Return the stage with the highest peak; the optimizer keeps `state` bytes for each weight."""
    return max(stages(config, sizes, place, state), key=lambda stage: stage.total)


def stages(config: Config, sizes: Sizes, place: Place, state: float) -> list[Stage]:
    """Return the stages of a run, the class pictures' included where there is a class."""
    process = _CONTEXT if place.is_card else _LIBRARIES
    every = _BYTES * sum(sizes.weights.values()) + process
    decoder, size = sizes.facts.decoder, config.pictures.size
    of_vae = _BYTES * pieces.autoencoder(sizes.settings[decoder], size) if decoder else 0
    training = _training(config, sizes, place, state)
    training = training._replace(kept=training.kept + process)
    found = [training, Stage("encoding the pictures", every, of_vae)]
    at_once = config.drawing.sample_batch_size if place.is_card else 1
    rows = sizes.pieces(sizes.facts.denoiser, config.pictures.size, 2 * at_once)  # with the prompt, and without
    of_drawing = max(_BYTES * pieces.drawing(rows), of_vae)  # pictures are decoded one by one
    if config.concepts.with_prior_preservation and not sizes.facts.enlarges:  # whose class pictures are the user's own
        found.append(Stage("drawing the class pictures", every, of_drawing))
    there = sum(sizes.weights[part] for part in (*_learners(config, sizes), *_passed(config, sizes)))
    beside = every - _BYTES * there - process  # loaded again, to draw and to save
    if config.logging.validation_prompt:
        found.append(Stage("drawing for validation", training.kept + beside, of_drawing))
    if config.result == "pipeline":
        found.append(Stage("saving", training.kept + beside, 0))
    return found


def _learners(config: Config, sizes: Sizes) -> tuple[str, ...]:
    return sizes.facts.learners if config.model.train_text_encoder else (sizes.facts.denoiser,)


def _passed(config: Config, sizes: Sizes) -> tuple[str, ...]:
    """Return the parts that do not train, and through which the gradients of a new word go."""
    is_passed = config.word.learn_identifier is not None and not config.model.train_text_encoder
    return sizes.facts.text_encoders if is_passed else ()


def _training(config: Config, sizes: Sizes, place: Place, state: float) -> Stage:
    """Return the stage of the updates, without the libraries."""
    memory, optimizer, rank, is_left = config.memory, config.optimizer, config.lora.lora_rank, config.leaves_networks
    rows = optimizer.train_batch_size * (2 if config.concepts.keeps_class else 1)
    parts = [part for part in reversed(_learners(config, sizes)) if part != sizes.facts.denoiser]
    # in the order of the forward pass: prompts are encoded first
    chain = [piece for part in parts for piece in sizes.pieces(part, config.pictures.size, min(rows, 2))]
    chain += sizes.pieces(sizes.facts.denoiser, config.pictures.size, rows)
    weights = sum(piece.weights for piece in chain)
    trained = weights
    if is_left:  # a word's own weights are few
        trained = _adapted(config.lora, pieces.adapted_weights(chain)) if rank else 0
    copies = 1 + bool(optimizer.ema_decay) + config.choosing.keep_best
    kept = trained * (_BYTES * copies + state)
    kept += _BYTES * weights if is_left else 0
    for part in _passed(config, sizes):
        kept += _BYTES * sizes.weights[part]
        passed = sizes.pieces(part, config.pictures.size, min(rows, 2))
        chain = [*(piece._replace(weights=0) for piece in passed), *chain]
    if config.concepts.prior_by_prediction and not rank:
        kept += _BYTES * sizes.weights[sizes.facts.denoiser]  # the copy of it before the training
    if not memory.cache_latents or sizes.facts.paints:
        kept += _BYTES * sum(sizes.weights[part] for part in sizes.facts.picture_encoders)
    if place.is_card and memory.mixed_precision != "no":
        # networks that are left are kept in it; of other weights, a copy stays until the backward pass
        kept += (_HALF - _BYTES if is_left else _HALF) * weights
    has_gradients = not is_left and not memory.early_update
    passing, activations = _backward(chain, memory.gradient_checkpointing, place.most_scores, has_gradients)
    if not is_left:
        largest = max(piece.weights for piece in chain)
        updating = _LEAN * largest if state < _MOMENTS else 0
        passing = passing + largest + updating if memory.early_update else max(passing, weights + updating)
    if not place.is_card:
        passing += _SCATTERED * activations
    return Stage("training", kept, _BYTES * (passing + (trained if is_left else 0)))


def _adapted(lora: LoraSettings, kinds: Mapping[LayerKind, int]) -> int:
    """Return the weights of a LoRA; a pattern may have layers of every kind."""
    by_target = {target: {target: kinds[target]} if target in kinds else kinds for target in lora.targets}  # type: ignore[index]
    return sum(lora.rank_of(target) * sum(weights.values()) for target, weights in by_target.items())


def _backward(chain: list[Piece], checkpointing: bool, most_scores: float, has_gradients: bool) -> tuple[float, int]:
    """Return (the most numbers that gradients and activations are together, the activations of a forward pass).

    From the last piece to the first, activations are freed as gradients come.
    """
    saved = [piece.saved + piece.kept_scores(most_scores) for piece in chain]
    again = [checkpointing and piece.input is not None for piece in chain]
    kept = [piece.input or 0 if is_again else each for piece, is_again, each in zip(chain, again, saved)]
    most, gradients, remaining = 0, 0, sum(kept)
    activations = remaining
    for piece, is_again, its_saved, its_kept in reversed(list(zip(chain, again, saved, kept))):
        if has_gradients:
            gradients += piece.weights
        busy = max(piece.busy, piece.busy_scores(most_scores))
        most = max(most, remaining + gradients + busy + (its_saved if is_again else 0))
        remaining -= its_kept
    return most, activations
