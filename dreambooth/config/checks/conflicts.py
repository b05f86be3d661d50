"""Settings of several sections that can't be combined: each check refuses them in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.config.sections import NEW_WORD
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from dreambooth.config.concept_sections import ConceptSettings
    from dreambooth.config.learning_sections import LoraSettings, OptimizerSettings
    from dreambooth.config.run_sections import ChoosingSettings, LoggingSettings, MemorySettings, SavingSettings
    from dreambooth.config.sections import ModelSettings, PictureSettings, WordSettings

_POLYNOMIAL_END = 1e-7  # ppdiffusers' default; its get_scheduler has no argument for it


def check_schedule(optimizer: OptimizerSettings, rate: float) -> None:
    """Refuse a rate below the end of its schedule."""
    if optimizer.lr_scheduler == "polynomial" and rate <= _POLYNOMIAL_END:
        raise BadInput(f"--learning_rate {rate}: polynomial ends at {_POLYNOMIAL_END}; must be more")


def check_class(concepts: ConceptSettings) -> None:
    """Refuse a class without a prompt, or without a folder of its own where it has pictures."""
    own = {Path(each.instance_data_dir).resolve() for each in concepts.subjects}
    flag = "with_prior_preservation" if concepts.with_prior_preservation else "prior_by_prediction"
    needed = ("class_data_dir", "class_prompt") if concepts.with_prior_preservation else ("class_prompt",)
    for subject in concepts.subjects if concepts.keeps_class else ():
        for name in needed:
            if not (getattr(subject, name) or "").strip():
                whose = f' for "{subject.prompt}"' if concepts.concepts else ""
                raise BadInput(f"--{flag} needs --{name}{whose}")
        if concepts.with_prior_preservation and Path(subject.class_data_dir or "").resolve() in own:
            raise BadInput("--class_data_dir is the same folder as --instance_data_dir; give the class its own")


def check_pictures(pictures: PictureSettings, concepts: ConceptSettings, memory: MemorySettings) -> None:
    """Refuse masks beside those of a list, and colours that are encoded once."""
    if concepts.concepts and pictures.mask_dir:
        raise BadInput("--mask_dir can't be combined with --concepts, whose list has it for each subject")
    if pictures.color_jitter and memory.cache_latents:
        raise BadInput("--color_jitter needs --no_cache_latents, since each step has other colours")


def check_layers(model: ModelSettings, lora: LoraSettings) -> None:
    """Refuse a choice of the networks' layers where a LoRA trains beside them."""
    if model.trained_layers and lora.lora_rank:
        raise BadInput("--trained_layers can't be combined with --lora_rank; --lora_targets chooses a LoRA's layers")


def check_word(word: WordSettings, concepts: ConceptSettings, model: ModelSettings, lora: LoraSettings) -> None:
    """Refuse prompts without a new word where one is to be learned, and what a word alone leaves as it is."""
    if word.learn_identifier is None:
        return
    for subject in concepts.subjects:
        if len(subject.new_words) != 1:
            count = "has several new words" if subject.new_words else "has no new word"
            raise BadInput(
                f'--learn_identifier: "{subject.prompt}" {count}; write one in small letters, as <sks> in "a photo of'
                ' <sks> dog"'
            )
        if set(subject.new_words) & set(NEW_WORD.findall(subject.class_prompt or "")):
            raise BadInput(f'--class_prompt "{subject.class_prompt}": the new word names the subject; leave it out')
    if len(concepts.new_words) < len(concepts.subjects):
        raise BadInput("--learn_identifier: two subjects of --concepts have one new word; give each its own")
    others = {
        "--lora_rank": lora.lora_rank,
        "--train_text_encoder": model.train_text_encoder,
        "--trained_layers": model.trained_layers,
        "--with_prior_preservation": concepts.with_prior_preservation,
        "--prior_by_prediction": concepts.prior_by_prediction,
    }
    for flag, is_given in others.items():
        if word.is_alone and is_given:
            raise BadInput(f"--learn_identifier alone leaves the model as it is, so {flag} does nothing; leave it out")


def check_measures(choosing: ChoosingSettings, logging: LoggingSettings, concepts: ConceptSettings) -> None:
    """Refuse measures that are never taken, and validations at which nothing is done."""
    if choosing.first and logging.validation_steps is None:
        raise BadInput(f"{choosing.first} needs --validation_steps")
    if logging.validation_steps is not None and not (logging.validation_prompt or choosing.first):
        raise BadInput("--validation_steps needs --validation_prompt, or --keep_best")
    if choosing.validation_data_dir and concepts.concepts:
        raise BadInput("--validation_data_dir can't be combined with --concepts, of which it is one subject's")
    if choosing.clip_model_path and not logging.validation_prompt:
        raise BadInput("--clip_model_path needs --validation_prompt")


def check_early_update(optimizer: OptimizerSettings, memory: MemorySettings) -> None:
    """Refuse settings that need all gradients of an update at once."""
    reasons = {
        "--optimizer prodigy, which estimates its rate from all gradients": optimizer.optimizer == "prodigy",
        f"--gradient_accumulation_steps {optimizer.gradient_accumulation_steps}: a gradient is the sum of several"
        " passes": optimizer.gradient_accumulation_steps > 1,
        f"--max_grad_norm {optimizer.max_grad_norm}: the norm is that of all gradients": optimizer.max_grad_norm,
        "--mixed_precision fp16: an update waits for the overflows of all gradients; bf16 does not":
            memory.mixed_precision == "fp16",
    }  # fmt: skip
    for reason, applies in reasons.items():
        if memory.early_update and applies:
            raise BadInput(f"--early_update can't be combined with {reason}")


def check_output(saving: SavingSettings, model: ModelSettings) -> None:
    """Refuse to write into the base model's folder."""
    base = model.pretrained_model_name_or_path
    if base is not None and Path(base).resolve() == Path(saving.output_dir).resolve():
        raise BadInput(f"--output_dir {saving.output_dir}: it is the base model's own folder; give another one")
