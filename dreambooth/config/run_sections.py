"""The settings of the run around the learning: memory, drawing, saving, the log; as in `sections`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dreambooth.config.fields import Section, check_png, flag
from dreambooth.system.errors import BadInput
from dreambooth.system.types import override

SchedulerName = Literal["ddim", "ddpm", "dpmsolver++", "euler", "euler_a", "lms", "pndm"]
Solver = Literal["own", SchedulerName]
Precision = Literal["no", "fp16", "bf16"]
SaveFormat = Literal["pdparams", "safetensors", "diffusers"]
WriterType = Literal["visualdl", "tensorboard"]


# fmt: off
@dataclass(frozen=True)
class MemorySettings(Section, title="memory and speed"):
    """The trade between memory and time."""

    gradient_checkpointing: bool = flag(
        "compute activations again in the backward pass: less memory, slower", False)
    early_update: bool = flag(
        "update each weight once its gradient is there, and free that: less memory; a small network then uses one core;"
        " one process, no accumulation, clipping or fp16", False, aliases=("--fused_backward_pass",))
    mixed_precision: Precision = flag(
        "compute in half precision on a GPU; the trainable weights stay float32", "no", course=True,
        choices=get_args(Precision))
    cache_latents: bool = flag(
        "encode the pictures once, then free the VAE (the default)", True)
    dataloader_num_workers: int = flag(
        "threads that read pictures", 0, least=0)


DEFAULT_SOLVER: Solver = "dpmsolver++"


@dataclass(frozen=True)
class SampleSettings(Section, title="class and validation pictures"):
    """The drawing of class and validation pictures during training."""

    sample_batch_size: int = flag(
        "pictures drawn at once (on the CPU, by a small network alone)", 4, least=1)
    prior_scheduler: Solver = flag(
        "the scheduler that draws; 'own' is the model's", DEFAULT_SOLVER, choices=get_args(Solver))
    prior_inference_steps: int = flag(
        "its denoising steps", 20, least=1)


@dataclass(frozen=True)
class SavingSettings(Section, title="saving"):
    """The output folder, and its checkpoints."""

    output_dir: str = flag(
        "the folder for the fine-tuned pipeline", "dreambooth-model", required=True)
    save_format: SaveFormat = flag(
        "the weights' format in --output_dir: Paddle's own two, or Hugging Face diffusers'", "pdparams",
        choices=get_args(SaveFormat))
    save_steps: int = flag(
        "write a checkpoint every so many updates", 500, least=1, aliases=("--checkpointing_steps",))
    last_checkpoint: bool = flag(
        "also write a checkpoint at the end, from which a higher --max_train_steps trains on (the default)", True)
    checkpoints_total_limit: int = flag(
        "keep only so many checkpoints, the newest; 0 keeps all", 3, least=0)
    resume_from_checkpoint: str | None = flag(
        "'latest', a folder, or a name under --output_dir such as checkpoint-400")
    allow_changes: bool = flag(
        "resume although flags that alter the run's updates differ", False)
    overwrite: bool = flag(
        "replace what another run left in --output_dir: another subject, base model or method", False)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.allow_changes and not self.resume_from_checkpoint:
            raise BadInput("--allow_changes needs --resume_from_checkpoint")


@dataclass(frozen=True)
class LoggingSettings(Section, title="logging"):
    """The log, and pictures on the way."""

    logging_dir: str = flag(
        "the log's folder, under --output_dir unless absolute", "logs")
    writer_type: WriterType = flag(
        "the log's writer", "visualdl", choices=get_args(WriterType), aliases=("--report_to",))
    logging_steps: int = flag(
        "log every so many updates", 1, least=1)
    validation_prompt: tuple[str, ...] | None = flag(
        "draw pictures of this prompt at the end and every --validation_steps; may be given several times",
        action="append", type=str)
    validation_steps: int | None = flag(
        "draw validation pictures every so many updates (default: only at the end)", type=int, least=1)
    num_validation_images: int | None = flag(
        "pictures for each validation prompt (default: 4)", type=int, least=1)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(each.strip() for each in self.validation_prompt or ()):
            raise BadInput("--validation_prompt: it is empty")
        if not self.validation_prompt and self.num_validation_images is not None:
            raise BadInput("--num_validation_images needs --validation_prompt")

    @property
    def validation_count(self) -> int:
        """The number of pictures for each validation prompt."""
        return self.num_validation_images or 4


@dataclass(frozen=True)
class ChoosingSettings(Section, title="measures on the way, and the best weights"):
    """What is measured at each validation, and what follows from it."""

    validation_data_dir: str | None = flag(
        "other pictures of the subject, to measure with at each validation (default: those that it trains on)")
    clip_model_path: str | None = flag(
        "measure the validation pictures with this CLIP: a folder, or a name")
    keep_best: bool = flag(
        "save the weights of the validation with the best score, in place of the last ones", False, course=True)
    patience: int | None = flag(
        "with --keep_best: end the run after so many validations without a better score", type=int, least=1)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience is not None and not self.keep_best:
            raise BadInput("--patience needs --keep_best")

    @property
    def first(self) -> str | None:
        """The first flag that is given; None where nothing is measured."""
        names = ("keep_best", "clip_model_path", "validation_data_dir")
        return next((f"--{name}" for name in names if getattr(self, name)), None)


@dataclass(frozen=True)
class RunSettings(Section, title="run"):
    """The run as a whole."""

    seed: int | None = flag(
        "the origin of every random number; without one, a seed is chosen, printed and recorded",
        type=int, course=True, least=0)
    dry_run: bool = flag(
        "check everything, print the plan (pictures, steps, parameters, memory) and stop", False)
    sheet: str | None = flag(
        "with --dry_run, draw the pictures as the network will see them, with their prompts, into this PNG",
        metavar="FILE.png")
    verbose: bool = flag(
        "also show the libraries' own messages", False)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_png("--sheet", self.sheet)
        if self.sheet and not self.dry_run:
            raise BadInput("--sheet needs --dry_run")
# fmt: on
