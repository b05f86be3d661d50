"""The settings of the model and of its pictures: one frozen dataclass per topic, one field per flag.

Each room of the package receives its own sections, never the whole. `learning_sections` has those of how it learns,
`run_sections` those of the run around it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from dreambooth.config.fields import Section, check_patterns, flag
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

if TYPE_CHECKING:
    from dreambooth.system.types import Size

ResizeMode = Literal["squeeze", "crop", "pad", "buckets"]
WordTraining = Literal["alone", "jointly"]

NEW_WORD = re.compile(r"<(?:(?![A-Z])[\w-])+>")  # as textual inversion writes one that the model is to learn

WORDS = "words"  # the part that they are
DEFAULT_WORD_RATE = 5e-4  # of diffusers' examples of textual inversion and of pivotal tuning
_DEFAULT_SIZE = 512


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
    without_t5: bool = flag(
        "load a Stable Diffusion 3 without T5, its third text encoder: 19 GB less in float32", False, course=True)
    train_text_encoder: bool = flag(
        "train the text encoder too", False, course=True)
    trained_layers: tuple[str, ...] | None = flag(
        "train these layers alone: key_value (those that see the prompt, as Custom Diffusion does), attention,"
        " feed_forward, convolution, time, or patterns of their names (default: all)", action="extend", nargs="+",
        type=str, course=True)


    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_patterns("--trained_layers", self.trained_layers or ())

    @property
    def layers(self) -> tuple[str, ...] | None:
        """The layers that train alone; None for all."""
        return None if self.trained_layers is None or "all" in self.trained_layers else tuple(self.trained_layers)


@dataclass(frozen=True)
class WordSettings(Section, title="learned word"):
    """A word that the model does not have yet, which training fills with a meaning."""

    learn_identifier: WordTraining | None = flag(
        "learn a new word, written as <name> in --instance_prompt: alone, with the model as it is (textual inversion),"
        " or jointly with what else trains (pivotal tuning)", course=True, choices=get_args(WordTraining))
    initializer_token: str | None = flag(
        "the word whose meaning the new one begins with (default: the class, of the prompts)", course=True)
    identifier_lr: float | None = flag(
        f"the learning rate of the new word (default: {DEFAULT_WORD_RATE:g})", type=float, course=True, above=0)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("initializer_token", "identifier_lr"):
            if self.learn_identifier is None and getattr(self, name) is not None:
                raise BadInput(f"--{name} needs --learn_identifier")

    @property
    def is_alone(self) -> bool:
        """Whether nothing but the word trains."""
        return self.learn_identifier == "alone"

    @property
    def rate(self) -> float:
        """The learning rate, before --scale_lr."""
        return self.identifier_lr or DEFAULT_WORD_RATE


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
# fmt: on
