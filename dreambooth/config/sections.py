"""The settings of what is learned, by topic: one frozen dataclass per topic, one field per flag.

Each room of the package receives its own sections, never the whole. `run_sections` has those of the run around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from dreambooth.config.fields import Section, flag
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from dreambooth.system.types import Size

Schedule = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "constant_with_warmup"]
OptimizerName = Literal["adamw", "adamw8bit", "adafactor"]
LoraTarget = Literal["attention"]
ResizeMode = Literal["squeeze", "crop", "pad", "buckets"]

_DEFAULT_SIZE = 512
DEFAULT_RATE, DEFAULT_LORA_RATE = 5e-6, 1e-4
DEFAULT_STEPS, DEFAULT_LORA_STEPS = 400, 800  # updates of a run that names neither updates nor epochs
SCHEDULES_WITHOUT_WARMUP = ("constant",)
SCHEDULES_WITHOUT_END = ("constant", "constant_with_warmup")


# fmt: off
@dataclass(frozen=True)
class SourceSettings(Section, title="settings from a file"):
    """The sources of settings beside the command line, which has priority."""

    config: str | None = flag(
        "a YAML, TOML or JSON file with settings under the flags' names, or a run's training_args.json")
    preset: str | None = flag(
        "settings for a model, a method and a card that come with the tool; 'list' shows them")


@dataclass(frozen=True)
class ModelSettings(Section, title="model"):
    """The model to start from, and which of its networks learn."""

    pretrained_model_name_or_path: str = flag(
        "the model to start from: a name on the hub or a local folder (required)", course=True, required=True)
    revision: str | None = flag(
        "branch, tag or commit of the model on the hub", course=True)
    tokenizer_name: str | None = flag(
        "another tokenizer than the model's own: a name or a folder", course=True)
    train_text_encoder: bool = flag(
        "train the text encoder too", False, course=True)


@dataclass(frozen=True)
class PictureSettings(Section, title="pictures"):
    """The size, crop and flip of the training pictures, and which of their places count."""

    height: int | None = flag(
        f"height to train at (default: {_DEFAULT_SIZE})", type=int, course=True, least=8)
    width: int | None = flag(
        f"width to train at (default: {_DEFAULT_SIZE})", type=int, course=True, least=8)
    resolution: int | None = flag(
        "sets --height and --width, where they are not given themselves", type=int, course=True, least=8)
    resize_mode: ResizeMode | None = flag(
        "how a picture of another shape gets the target's: squeeze it (the default), crop it about its centre, or pad"
        " it with grey that does not count; with buckets it is cropped to the nearest of several shapes of that area",
        course=True, choices=get_args(ResizeMode))
    center_crop: bool = flag(
        "the same as --resize_mode crop", False, course=True)
    random_crop: bool = flag(
        "with --resize_mode crop or buckets: crop at one of five places, from one end to the other, at random", False,
        course=True)
    random_flip: bool = flag(
        "mirror half of the pictures, at random", False, course=True)
    color_jitter: float = flag(
        "change each picture's brightness, contrast and saturation at random, by up to this share; needs"
        " --no_cache_latents", 0.0, course=True, least=0, below=1)
    mask_dir: str | None = flag(
        "a folder with a mask for each of the subject's pictures, NAME.png: white counts, black does not")
    use_alpha: bool = flag(
        "the pictures' own transparency is their mask", False, course=True)
    unmasked_weight: float = flag(
        "the weight of what a mask leaves out, from 0 to 1", 0.1, course=True, least=0)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.center_crop and self.resize_mode not in (None, "crop"):
            raise BadInput(f"--center_crop can't be combined with --resize_mode {self.resize_mode}")
        if self.random_crop and self.mode not in ("crop", "buckets"):
            raise BadInput("--random_crop needs --resize_mode crop or buckets")
        if self.mask_dir and self.use_alpha:
            raise BadInput("--mask_dir can't be combined with --use_alpha")
        if self.unmasked_weight > 1:
            raise BadInput(f"--unmasked_weight {self.unmasked_weight}: must be at most 1")
        for name, size in (("height", self.size[0]), ("width", self.size[1])):
            if size % 8:
                source = name if getattr(self, name) else "resolution"
                raise BadInput(f"--{source} {size}: must be a multiple of 8")

    @property
    def has_masks(self) -> bool:
        """Check whether pictures may have masks."""
        return self.use_alpha or self.mask_dir is not None

    @property
    def mode(self) -> ResizeMode:
        """How a picture gets the target's shape."""
        return self.resize_mode or ("crop" if self.center_crop else "squeeze")

    @property
    def size(self) -> Size:
        """(height, width) of the pictures to train on."""
        both = self.resolution or _DEFAULT_SIZE
        return self.height or both, self.width or both


@dataclass(frozen=True)
class LoraSettings(Section, title="LoRA"):
    """Training of a LoRA in place of the whole networks."""

    lora_rank: int | None = flag(
        "freeze the networks and train a LoRA of this rank beside them: a file of a few megabytes",
        type=int, course=True, least=1)
    lora_alpha: float | None = flag(
        "the LoRA is scaled by alpha / rank (default: the rank)", type=float, course=True, above=0)
    lora_dropout: float | None = flag(
        "the share of its inputs that the LoRA drops in a step (default: 0)", type=float, course=True,
        least=0, below=1)
    lora_merge: bool = flag("also write the whole pipeline with the LoRA merged into it", False)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_rank is None:
            for name in ("lora_alpha", "lora_dropout", "lora_merge"):
                if getattr(self, name):
                    raise BadInput(f"--{name} needs --lora_rank")

    @property
    def alpha(self) -> float:
        """The scale's numerator."""
        return self.lora_alpha if self.lora_alpha is not None else self.lora_rank or 0

    @property
    def dropout(self) -> float:
        """The share of the inputs that an example loses."""
        return self.lora_dropout or 0.0

    @property
    def saves_pipeline(self) -> bool:
        """Check whether a whole pipeline results, and not a LoRA alone."""
        return self.lora_merge or not self.lora_rank


@dataclass(frozen=True)
class ObjectiveSettings(Section, title="loss"):
    """The loss."""

    prior_loss_weight: float = flag(
        "the weight of the class pictures' loss", 1.0, course=True, least=0)


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
        "adamw; adamw8bit, whose state takes a quarter of the memory; or adafactor, whose state takes almost none",
        "adamw", course=True, choices=get_args(OptimizerName))
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
