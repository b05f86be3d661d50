"""What a run is told: one frozen dataclass, a field for each flag, and every check across flags."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from dreambooth.config import fields
from dreambooth.system.errors import BadInput

MAIN = "main"
PICTURES = "pictures"
OPTIMISATION = "optimisation"
MEMORY = "memory and speed"
SAVING = "saving"
LOGGING = "logging"
DEFAULT_SIZE = 512
DEFAULT_RATE, DEFAULT_LORA_RATE = 5e-6, 1e-4
SCHEDULES = ("constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "constant_with_warmup")
SCHEDULES_WITHOUT_WARMUP = ("constant",)
SCHEDULES_WITHOUT_END = ("constant", "constant_with_warmup")
SOLVERS = ("own", "ddim", "ddpm", "dpmsolver++", "euler", "euler_a", "lms", "pndm")
POLYNOMIAL_END = 1e-7  # the library's, which can't be set through its get_scheduler


@dataclass(frozen=True)
class Config:
    # fmt: off
    pretrained_model_name_or_path: Optional[str] = fields.flag(
        MAIN, "the model to start from: a name on the hub or a local folder (required)", course=True)
    instance_data_dir: Optional[str] = fields.flag(
        MAIN, "the folder with the subject's pictures (required)")
    instance_prompt: Optional[str] = fields.flag(
        MAIN, 'the prompt that names the subject by a rare word, "a photo of sks dog" (required)', course=True)
    output_dir: str = fields.flag(
        MAIN, "where the fine-tuned pipeline goes", "dreambooth-model")
    with_prior_preservation: bool = fields.flag(
        MAIN, "also train on pictures of the class that the base model drew, so that the class is kept", False,
        course=True)
    class_data_dir: Optional[str] = fields.flag(
        MAIN, "the folder with pictures of the class; missing ones are drawn into it before training")
    class_prompt: Optional[str] = fields.flag(
        MAIN, 'the prompt of the class, "a photo of a dog"', course=True)
    num_class_images: int = fields.flag(
        MAIN, "how many class pictures to train on", 100, course=True, least=1)
    prior_loss_weight: float = fields.flag(
        MAIN, "the weight of the class pictures' loss", 1.0, course=True, least=0)
    train_text_encoder: bool = fields.flag(
        MAIN, "train the text encoder too", False, course=True)
    lora_rank: Optional[int] = fields.flag(
        MAIN, "leave the networks as they are and train a LoRA of this rank beside them: a file of a few megabytes",
        type=int, course=True, least=1)
    lora_alpha: Optional[float] = fields.flag(
        MAIN, "the LoRA counts alpha / rank times (default: the rank)", type=float, course=True, above=0)
    lora_dropout: Optional[float] = fields.flag(
        MAIN, "the share of its inputs that the LoRA does without in a step (default: 0)", type=float, course=True,
        least=0, below=1)
    lora_merge: bool = fields.flag(
        MAIN, "also write the whole pipeline with the LoRA merged into it", False)
    num_train_epochs: int = fields.flag(
        MAIN, "how often to go through the pictures (through the longer of the two lists, with prior preservation)",
        1, least=1)
    max_train_steps: Optional[int] = fields.flag(
        MAIN, "how many optimizer updates to make; wins over --num_train_epochs", type=int, least=1)
    seed: Optional[int] = fields.flag(
        MAIN, "what every random number derives from; without one, a seed is chosen, printed and recorded",
        type=int, course=True, least=0)
    tokenizer_name: Optional[str] = fields.flag(
        MAIN, "another tokenizer than the model's own: a name or a folder", course=True)
    revision: Optional[str] = fields.flag(
        MAIN, "branch, tag or commit of the model on the hub", course=True)
    dry_run: bool = fields.flag(
        MAIN, "check everything, print the plan (pictures, steps, parameters, memory) and stop", False)
    verbose: bool = fields.flag(
        MAIN, "show the libraries' own messages too", False)

    height: Optional[int] = fields.flag(
        PICTURES, f"height to train at (default: {DEFAULT_SIZE})", type=int, course=True, least=8)
    width: Optional[int] = fields.flag(
        PICTURES, f"width to train at (default: {DEFAULT_SIZE})", type=int, course=True, least=8)
    resolution: Optional[int] = fields.flag(
        PICTURES, "sets --height and --width, where they are not given themselves", type=int, course=True, least=8)
    center_crop: bool = fields.flag(
        PICTURES, "crop about the centre to the target's shape before scaling, instead of squeezing", False,
        course=True)
    random_flip: bool = fields.flag(
        PICTURES, "mirror half of the pictures, at random", False, course=True)

    train_batch_size: int = fields.flag(
        OPTIMISATION, "pictures of the subject in one forward pass of one process", 4, least=1)
    gradient_accumulation_steps: int = fields.flag(
        OPTIMISATION, "forward passes in one update", 1, least=1)
    learning_rate: Optional[float] = fields.flag(
        OPTIMISATION,
        f"the learning rate, before --scale_lr (default: {DEFAULT_RATE:g}; with --lora_rank {DEFAULT_LORA_RATE:g})",
        type=float, course=True, above=0)
    text_encoder_lr: Optional[float] = fields.flag(
        OPTIMISATION, "the text encoder's learning rate (default: --learning_rate)", type=float, course=True, above=0)
    scale_lr: bool = fields.flag(
        OPTIMISATION, "multiply the learning rate by accumulation x batch x processes", False, course=True)
    lr_scheduler: str = fields.flag(
        OPTIMISATION, "the course of the learning rate, counted in updates", "constant", course=True,
        choices=SCHEDULES)
    lr_warmup_steps: int = fields.flag(
        OPTIMISATION, "updates over which the rate rises from zero (all but 'constant')", 500, course=True, least=0)
    lr_num_cycles: int = fields.flag(
        OPTIMISATION, "restarts of cosine_with_restarts", 1, course=True, least=1)
    lr_power: float = fields.flag(
        OPTIMISATION, "the power of polynomial", 1.0, course=True, above=0)
    adam_beta1: float = fields.flag(
        OPTIMISATION, "decay of AdamW's first moment", 0.9, course=True, least=0, below=1)
    adam_beta2: float = fields.flag(
        OPTIMISATION, "decay of AdamW's second moment", 0.999, course=True, least=0, below=1)
    adam_weight_decay: float = fields.flag(
        OPTIMISATION, "AdamW's weight decay", 0.02, course=True, least=0)
    adam_epsilon: float = fields.flag(
        OPTIMISATION, "AdamW's epsilon", 1e-8, course=True, above=0)
    max_grad_norm: Optional[float] = fields.flag(
        OPTIMISATION, "clip the gradients' global norm to this (default: no clipping)", type=float, course=True,
        above=0)

    gradient_checkpointing: bool = fields.flag(
        MEMORY, "compute activations again in the backward pass: less memory, slower", False)
    mixed_precision: str = fields.flag(
        MEMORY, "compute in half precision on a GPU; the weights that learn stay float32", "no", course=True,
        choices=("no", "fp16", "bf16"))
    cache_latents: bool = fields.flag(
        MEMORY, "encode the pictures once, then free the VAE (the default)", True)
    sample_batch_size: int = fields.flag(
        MEMORY, "pictures drawn at once on a card (the CPU draws one by one), for class and validation", 4, least=1)
    prior_scheduler: str = fields.flag(
        MEMORY, "what draws class and validation pictures; 'own' is the model's", "dpmsolver++", choices=SOLVERS)
    prior_inference_steps: int = fields.flag(
        MEMORY, "its denoising steps", 20, least=1)
    dataloader_num_workers: int = fields.flag(
        MEMORY, "threads that read pictures", 0, least=0)

    save_steps: int = fields.flag(
        SAVING, "write a checkpoint every so many updates", 500, least=1, aliases=("--checkpointing_steps",))
    checkpoints_total_limit: Optional[int] = fields.flag(
        SAVING, "keep only so many checkpoints (default: all)", type=int, least=1)
    resume_from_checkpoint: Optional[str] = fields.flag(
        SAVING, "'latest', a folder, or a name under --output_dir such as checkpoint-400")
    allow_changes: bool = fields.flag(
        SAVING, "resume although flags that alter the course of the run differ", False)
    save_format: str = fields.flag(
        SAVING, "the weights' format in --output_dir: Paddle's own two, or Hugging Face diffusers'", "pdparams",
        choices=("pdparams", "safetensors", "diffusers"))

    logging_dir: str = fields.flag(
        LOGGING, "where the log goes, under --output_dir unless absolute", "logs")
    writer_type: str = fields.flag(
        LOGGING, "what writes the log", "visualdl", choices=("visualdl", "tensorboard"), aliases=("--report_to",))
    logging_steps: int = fields.flag(
        LOGGING, "log every so many updates", 1, least=1)
    validation_prompt: Optional[tuple] = fields.flag(
        LOGGING, "draw pictures of this prompt at the end and every --validation_steps; may be given several times",
        action="append", type=str)
    validation_steps: Optional[int] = fields.flag(
        LOGGING, "draw validation pictures every so many updates (default: only at the end)", type=int, least=1)
    num_validation_images: Optional[int] = fields.flag(
        LOGGING, "pictures for each validation prompt (default: 4)", type=int, least=1)
    # fmt: on

    def __post_init__(self):
        for name in ("pretrained_model_name_or_path", "instance_data_dir", "instance_prompt", "output_dir"):
            value = getattr(self, name)
            if value is None or not value.strip():
                raise BadInput(f"--{name} is required")
        for each in dataclasses.fields(self):
            fields.check_number(each, getattr(self, each.name))
        for name, size in (("height", self.size[0]), ("width", self.size[1])):
            if size % 8:
                source = name if getattr(self, name) else "resolution"
                raise BadInput(f"--{source} {size}: must be a multiple of 8")
        if self.lr_scheduler == "polynomial" and self.base_rate <= POLYNOMIAL_END:
            raise BadInput(f"--learning_rate {self.base_rate}: polynomial ends at {POLYNOMIAL_END}; must be more")
        if self.lora_rank is None:
            for name in ("lora_alpha", "lora_dropout", "lora_merge"):
                if getattr(self, name):
                    raise BadInput(f"--{name} needs --lora_rank")
        if self.with_prior_preservation:
            for name in ("class_data_dir", "class_prompt"):
                if not (getattr(self, name) or "").strip():
                    raise BadInput(f"--with_prior_preservation needs --{name}")
            if Path(self.class_data_dir).resolve() == Path(self.instance_data_dir).resolve():
                raise BadInput("--class_data_dir is the same folder as --instance_data_dir; give the class its own")
        if Path(self.output_dir).resolve() == Path(self.pretrained_model_name_or_path).resolve():
            raise BadInput(f"--output_dir {self.output_dir}: it is the base model's own folder; give another one")
        if not self.validation_prompt:
            for name in ("validation_steps", "num_validation_images"):
                if getattr(self, name) is not None:
                    raise BadInput(f"--{name} needs --validation_prompt")
        if self.allow_changes and not self.resume_from_checkpoint:
            raise BadInput("--allow_changes needs --resume_from_checkpoint")

    def warnings(self):
        """What is allowed and yet probably not meant."""
        if self.with_prior_preservation and self.class_prompt.strip() == self.instance_prompt.strip():
            yield (
                "--class_prompt is the same as --instance_prompt: the class would be taught to look like the subject;"
                " leave the rare word out of the class prompt"
            )
        if not self.with_prior_preservation:
            for name in ("class_data_dir", "class_prompt"):
                if getattr(self, name):
                    yield f"--{name} is not used without --with_prior_preservation"
        if self.text_encoder_lr and not self.train_text_encoder:
            yield "--text_encoder_lr is not used without --train_text_encoder"

    @property
    def size(self):
        """(height, width) of the pictures that are trained on."""
        both = self.resolution or DEFAULT_SIZE
        return self.height or both, self.width or both

    @property
    def validation_count(self):
        return self.num_validation_images or 4

    def global_batch(self, processes):
        """Subject pictures in one update."""
        return self.train_batch_size * self.gradient_accumulation_steps * processes

    @property
    def alpha(self):
        return self.lora_rank if self.lora_alpha is None else self.lora_alpha

    @property
    def dropout(self):
        return self.lora_dropout or 0.0

    @property
    def saves_pipeline(self):
        """Whether a whole pipeline comes out, and not a LoRA alone."""
        return self.lora_merge or not self.lora_rank

    @property
    def base_rate(self):
        """The learning rate before --scale_lr."""
        return self.learning_rate or (DEFAULT_RATE if self.lora_rank is None else DEFAULT_LORA_RATE)

    def rates(self, processes):
        """The learning rates of UNet and text encoder after --scale_lr."""
        scale = self.global_batch(processes) if self.scale_lr else 1
        return {
            "unet": self.base_rate * scale,
            "text_encoder": (self.text_encoder_lr or self.base_rate) * scale,
        }

    def epoch(self, pictures):
        """Examples in one epoch, which goes through the longer of the two lists of pictures."""
        return max(pictures, self.num_class_images if self.with_prior_preservation else 0)

    def total_steps(self, examples, processes):
        """Updates in the whole run, where one epoch is `examples` examples. Nothing is dropped at an epoch's end:
        examples follow each other across it, and only the very last update is rounded up."""
        if self.max_train_steps:
            return self.max_train_steps
        return math.ceil(self.num_train_epochs * examples / self.global_batch(processes))

    def course(self, steps, processes):
        """The settings that decide what a step does, by flag; a resumed run is compared with them."""
        course = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.metadata["course"]}
        for name in ("resolution", "height", "width"):
            course.pop(name)
        course["height"], course["width"] = self.size
        course["learning_rate"] = self.base_rate
        if self.lora_rank is None:
            for name in ("lora_rank", "lora_alpha", "lora_dropout"):
                course.pop(name)
        else:
            course["lora_alpha"], course["lora_dropout"] = self.alpha, self.dropout
        course["train_batch_size x gradient_accumulation_steps x processes"] = self.global_batch(processes)
        if not self.with_prior_preservation:
            for name in ("class_prompt", "num_class_images", "prior_loss_weight"):
                course.pop(name)
        if self.lr_scheduler not in SCHEDULES_WITHOUT_END:
            course["max_train_steps"] = steps
        return course

    def as_dict(self):
        return {**dataclasses.asdict(self), "learning_rate": self.base_rate}
