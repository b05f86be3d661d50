"""The settings of how the model learns: a LoRA, the loss, the optimizer; as in `sections`."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from dreambooth.config.fields import Section, check_patterns, flag
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Sequence

Schedule = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "constant_with_warmup"]
OptimizerName = Literal["adamw", "adamw8bit", "adafactor", "prodigy", "lion"]
LayerKind = Literal["attention", "feed_forward", "convolution", "time"]
LossType = Literal["l2", "huber"]
TimestepSampling = Literal["uniform", "logit_normal"]

DEFAULT_RATE, DEFAULT_LORA_RATE = 5e-6, 1e-4
# updates of a run that names neither updates nor epochs
DEFAULT_STEPS, DEFAULT_LORA_STEPS, DEFAULT_WORD_STEPS = 400, 800, 3000
SCHEDULES_WITHOUT_WARMUP = ("constant",)
SCHEDULES_WITHOUT_END = ("constant", "constant_with_warmup")
RATE_FREE = ("prodigy",)  # optimizers that find their rate: --learning_rate is a factor on it
_ALL, _MOST_RANK = "all", 1 << 16


# fmt: off
@dataclass(frozen=True)
class LoraSettings(Section, title="LoRA"):
    """Training of a LoRA in place of the whole networks."""

    lora_rank: int | None = flag(
        "freeze the networks and train a LoRA of this rank beside them: a file of a few megabytes",
        type=int, course=True, least=1, below=_MOST_RANK)
    lora_alpha: float | None = flag(
        "the LoRA is scaled by alpha / rank (default: the rank)", type=float, course=True, above=0)
    lora_targets: tuple[str, ...] | None = flag(
        "the layers that the LoRA adapts: attention, feed_forward, convolution, time, all, or patterns of their names"
        " (default: attention)", action="extend", nargs="+", type=str, course=True)
    lora_ranks: tuple[str, ...] | None = flag(
        "other ranks for some of --lora_targets: convolution=2 time=1", action="extend", nargs="+", type=str,
        course=True, metavar="TARGET=N")
    lora_alphas: tuple[str, ...] | None = flag(
        "other alphas for some of --lora_targets", action="extend", nargs="+", type=str, course=True,
        metavar="TARGET=X")
    lora_dropout: float | None = flag(
        "the share of its inputs that the LoRA drops in a step (default: 0)", type=float, course=True,
        least=0, below=1)
    use_rslora: bool = flag(
        "scale by alpha / the root of the rank, so that a higher rank learns as fast (rsLoRA)", False, course=True)
    use_dora: bool = flag(
        "also train the length of each column of the adapted matrices (DoRA)", False, course=True)
    loraplus_lr_ratio: float | None = flag(
        "LoRA+: the rate of the LoRA's second matrices over that of the first ones, 4 to 16 for example (default: 1)",
        type=float, course=True, above=0)
    lora_merge: bool = flag("also write the whole pipeline with the LoRA merged into it", False)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_rank is None:
            for name in _OF_LORA:
                if getattr(self, name):
                    raise BadInput(f"--{name} needs --lora_rank")
            return
        check_patterns("--lora_targets", self.targets)
        for target, rank in self._ranks.items():
            if not 1 <= rank < _MOST_RANK or not rank.is_integer():
                raise BadInput(f"--lora_ranks {target}={rank:g}: must be a whole number from 1 to {_MOST_RANK - 1}")
        for target, alpha in self._alphas.items():
            if not (alpha > 0 and math.isfinite(alpha)):
                raise BadInput(f"--lora_alphas {target}={alpha:g}: must be more than 0")

    @functools.cached_property
    def targets(self) -> tuple[str, ...]:
        """The kinds of layers and patterns that are adapted, each once; "all" stands for all kinds."""
        given = self.lora_targets or ("attention",)
        listed = [kind for each in given for kind in (get_args(LayerKind) if each == _ALL else (each,))]
        return tuple(dict.fromkeys(listed))

    def rank_of(self, target: str) -> int:
        """Return the rank of the layers of a target."""
        return int(self._ranks.get(target, self.lora_rank or 0))

    def alpha_of(self, target: str) -> float:
        """Return the scale's numerator for the layers of a target."""
        if target in self._alphas:
            return self._alphas[target]
        return self.lora_alpha if self.lora_alpha is not None else self.rank_of(target)

    def scale_of(self, target: str) -> float:
        """Return the factor on the product of the two matrices for the layers of a target.

        With rsLoRA it falls with the root of the rank (Kalajdzievski 2023, arXiv 2312.03732).
        """
        rank = self.rank_of(target)
        return self.alpha_of(target) / (math.sqrt(rank) if self.use_rslora else rank)

    @property
    def has_scales(self) -> bool:
        """Check whether the scale is another than the alpha over the rank, or differs among the layers."""
        return self.use_rslora or bool(self.lora_ranks or self.lora_alphas)

    @property
    def in_words(self) -> str:
        """The kind of the LoRA, its rank and its layers, where they are not the usual ones."""
        kind, ranks = "DoRA" if self.use_dora else "LoRA", {target: self.rank_of(target) for target in self.targets}
        if len({*ranks.values()}) > 1:
            return f"a {kind} of {', '.join(f'rank {rank} ({target})' for target, rank in ranks.items())}"
        layers = "" if self.targets == ("attention",) else f" ({', '.join(self.targets)})"
        return f"a {kind} of rank {next(iter(ranks.values()))}{layers}"

    @functools.cached_property
    def _ranks(self) -> dict[str, float]:
        return _by_target("lora_ranks", self.lora_ranks or (), self.targets)

    @functools.cached_property
    def _alphas(self) -> dict[str, float]:
        return _by_target("lora_alphas", self.lora_alphas or (), self.targets)

    @property
    def dropout(self) -> float:
        """The share of the inputs that an example loses."""
        return self.lora_dropout or 0.0

    def course(self) -> dict[str, object]:
        """List what decides on an update, by flag: what is left at its default in its default's words, or not at all.

        Earlier versions recorded rank, alpha and dropout alone.
        """
        if self.lora_rank is None:
            return {}
        facts: dict[str, object] = {"lora_rank": self.lora_rank, "lora_dropout": self.dropout}
        facts["lora_alpha"] = self.lora_alpha if self.lora_alpha is not None else self.lora_rank
        if self.targets != ("attention",):
            facts["lora_targets"] = list(self.targets)
        for name, of in (("lora_ranks", self.rank_of), ("lora_alphas", self.alpha_of)):
            if getattr(self, name):
                facts[name] = {target: of(target) for target in self.targets}
        facts |= {name: True for name in ("use_rslora", "use_dora") if getattr(self, name)}
        if self.loraplus_lr_ratio not in (None, 1):
            facts["loraplus_lr_ratio"] = self.loraplus_lr_ratio
        return facts


@dataclass(frozen=True)
class ObjectiveSettings(Section, title="loss"):
    """The loss, and the noise and timesteps of the examples."""

    prior_loss_weight: float = flag(
        "the weight of the class's loss", 1.0, course=True, least=0)
    snr_gamma: float | None = flag(
        "weight each example by min(SNR, this) / SNR, 5 for example: fewer conflicts between timesteps (Min-SNR)",
        type=float, course=True, above=0)
    loss_type: LossType = flag(
        "the squared error, or the Huber loss, to which large errors count less", "l2", course=True,
        choices=get_args(LossType))
    huber_c: float = flag(
        "with --loss_type huber: the error from which on the loss is nearly linear", 0.1, course=True, above=0)
    noise_offset: float = flag(
        "also add noise that is the same at all places of a channel, 0.05 for example: darker and brighter pictures",
        0.0, course=True, least=0)
    input_perturbation: float = flag(
        "add this share of further noise to the network's input alone, 0.1 for example", 0.0, course=True, least=0)
    zero_terminal_snr: bool = flag(
        "noise the last timestep fully, for a model that predicts the velocity; its scheduler is saved so", False,
        course=True)
    min_timestep: int = flag(
        "the first timestep to train on", 0, course=True, least=0)
    max_timestep: int | None = flag(
        "the timestep before which the training ends (default: the model's number of them)", type=int, course=True,
        least=1)
    timestep_sampling: TimestepSampling | None = flag(
        "draw all timesteps alike, or most in the middle (default: uniform; for Stable Diffusion 3, logit_normal)",
        course=True, choices=get_args(TimestepSampling))
    timestep_shift: float = flag(
        "above 1, more of the timesteps have much noise; below 1, more have little", 1.0, course=True, above=0)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_timestep is not None and self.max_timestep <= self.min_timestep:
            raise BadInput(f"--max_timestep {self.max_timestep}: must be more than --min_timestep {self.min_timestep}")

    @property
    def huber(self) -> float | None:
        """The error at which the Huber loss goes over from square to straight; None for the squared error."""
        return self.huber_c if self.loss_type == "huber" else None


@dataclass(frozen=True)
class OptimizerSettings(Section, title="optimization"):
    """The length of the run, its batches, and the optimizer."""

    num_train_epochs: int | None = flag(
        "passes through the pictures (through the longest of the lists, with prior preservation), in place of"
        " --max_train_steps", type=int, least=1)
    max_train_steps: int | None = flag(
        f"the number of optimizer updates (default: {DEFAULT_STEPS}; with --lora_rank {DEFAULT_LORA_STEPS}; unless"
        " --num_train_epochs is given)", type=int, least=1)
    train_batch_size: int = flag(
        "pictures of the subject in one forward pass of one process", 4, least=1)
    gradient_accumulation_steps: int = flag(
        "forward passes in one update", 1, least=1)
    learning_rate: float | None = flag(
        f"the learning rate, before --scale_lr (default: {DEFAULT_RATE:g}; with --lora_rank {DEFAULT_LORA_RATE:g})",
        type=float, course=True, above=0)
    text_encoder_lr: float | None = flag(
        "the text encoder's learning rate (default: --learning_rate)", type=float, course=True, above=0)
    scale_lr: bool = flag(
        "multiply the learning rate by accumulation x batch x processes", False, course=True)
    lr_scheduler: Schedule = flag(
        "the schedule of the learning rate, counted in updates", "constant", course=True, choices=get_args(Schedule))
    lr_warmup_steps: int = flag(
        "updates over which the rate rises from zero (all but 'constant')", 500, course=True, least=0)
    lr_num_cycles: int = flag(
        "restarts of cosine_with_restarts", 1, course=True, least=1)
    lr_power: float = flag(
        "the power of polynomial", 1.0, course=True, above=0)
    optimizer: OptimizerName = flag(
        "adamw; adamw8bit, whose state takes a quarter of the memory; adafactor, whose state takes almost none;"
        " prodigy, which finds its rate; or lion, whose state takes half", "adamw", course=True,
        choices=get_args(OptimizerName))
    adam_beta1: float = flag(
        "decay of AdamW's first moment", 0.9, course=True, least=0, below=1)
    adam_beta2: float = flag(
        "decay of AdamW's second moment", 0.999, course=True, least=0, below=1)
    adam_weight_decay: float = flag(
        "AdamW's weight decay", 0.02, course=True, least=0)
    adam_epsilon: float = flag(
        "AdamW's epsilon", 1e-8, course=True, above=0)
    max_grad_norm: float | None = flag(
        "clip the gradients' global norm to this (default: no clipping)", type=float, course=True, above=0)
    ema_decay: float | None = flag(
        "draw with and save the exponential moving average (EMA) of the weights with this decay: 0.97 averages some 60"
        " updates (default: the last weights alone)", type=float, course=True, above=0, below=1)

    def global_batch(self, processes: int) -> int:
        """Count the subject pictures in one update."""
        return self.train_batch_size * self.gradient_accumulation_steps * processes

    def total_steps(self, examples: int, processes: int, default: int) -> int:
        """Count the updates in the whole run, where one epoch is `examples` examples; `default` without a flag.

        No example is dropped at an epoch's end: examples follow each other across it, and only the very last update is
        rounded up.
        """
        if self.max_train_steps or not self.num_train_epochs:
            return self.max_train_steps or default
        return math.ceil(self.num_train_epochs * examples / self.global_batch(processes))
# fmt: on

_OF_LORA = (
    "lora_alpha",
    "lora_targets",
    "lora_ranks",
    "lora_alphas",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "loraplus_lr_ratio",
    "lora_merge",
)


def _by_target(name: str, given: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Read numbers by target, each as TARGET=NUMBER."""
    found: dict[str, float] = {}
    for each in given:
        target, equals, text = each.rpartition("=")
        try:
            number = float(text if equals else "")
        except ValueError:
            raise BadInput(f"--{name} {each}: must be a target and a number, such as attention=4") from None
        for one in get_args(LayerKind) if target == _ALL else (target,):
            if one not in targets:
                raise BadInput(f"--{name} {each}: {one} is none of --lora_targets, {', '.join(targets)}")
            found[one] = number
    return found
