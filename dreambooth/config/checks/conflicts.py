"""The checks across the sections of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from dreambooth.config.config import Config

_POLYNOMIAL_END = 1e-7  # ppdiffusers' default; its get_scheduler has no argument for it


def check(config: Config) -> None:
    """Refuse settings that can't be combined."""
    model, concepts, saving = config.model, config.concepts, config.saving
    if config.optimizer.lr_scheduler == "polynomial" and config.base_rate <= _POLYNOMIAL_END:
        raise BadInput(f"--learning_rate {config.base_rate}: polynomial ends at {_POLYNOMIAL_END}; must be more")
    _check_early_update(config)
    if model.trained_layers and config.lora.lora_rank:
        raise BadInput("--trained_layers can't be combined with --lora_rank; --lora_targets chooses a LoRA's layers")
    if concepts.prior_by_prediction and not concepts.with_prior_preservation:
        for subject in concepts.subjects:
            if not (subject.class_prompt or "").strip():
                whose = f' for "{subject.prompt}"' if concepts.concepts else ""
                raise BadInput(f"--prior_by_prediction needs --class_prompt{whose}")
    if concepts.with_prior_preservation:
        own = {Path(each.instance_data_dir).resolve() for each in concepts.subjects}
        for subject in concepts.subjects:
            for name in ("class_data_dir", "class_prompt"):
                if not (getattr(subject, name) or "").strip():
                    whose = f' for "{subject.prompt}"' if concepts.concepts else ""
                    raise BadInput(f"--with_prior_preservation needs --{name}{whose}")
            if Path(subject.class_data_dir or "").resolve() in own:
                raise BadInput("--class_data_dir is the same folder as --instance_data_dir; give the class its own")
    if concepts.concepts and config.pictures.mask_dir:
        raise BadInput("--mask_dir can't be combined with --concepts, whose list has it for each subject")
    if config.pictures.color_jitter and config.memory.cache_latents:
        raise BadInput("--color_jitter needs --no_cache_latents, since each step has other colours")
    _check_choosing(config)
    if _is_same_path(saving.output_dir, model.pretrained_model_name_or_path):
        raise BadInput(f"--output_dir {saving.output_dir}: it is the base model's own folder; give another one")


def _check_choosing(config: Config) -> None:
    """Refuse measures that are never taken, and validations at which nothing is done."""
    logging, measured = config.logging, config.choosing.first
    if measured and logging.validation_steps is None:
        raise BadInput(f"{measured} needs --validation_steps")
    if logging.validation_steps is not None and not (logging.validation_prompt or measured):
        raise BadInput("--validation_steps needs --validation_prompt, or --keep_best")
    if config.choosing.validation_data_dir and config.concepts.concepts:
        raise BadInput("--validation_data_dir can't be combined with --concepts, of which it is one subject's")
    if config.choosing.clip_model_path and not logging.validation_prompt:
        raise BadInput("--clip_model_path needs --validation_prompt")


def _check_early_update(config: Config) -> None:
    """Refuse settings that need all gradients of an update at once."""
    optimizer = config.optimizer
    reasons = {
        "--optimizer prodigy, which estimates its rate from all gradients": optimizer.optimizer == "prodigy",
        f"--gradient_accumulation_steps {optimizer.gradient_accumulation_steps}: a gradient is the sum of several"
        " passes": optimizer.gradient_accumulation_steps > 1,
        f"--max_grad_norm {optimizer.max_grad_norm}: the norm is that of all gradients": optimizer.max_grad_norm,
        "--mixed_precision fp16: an update waits for the overflows of all gradients; bf16 does not":
            config.memory.mixed_precision == "fp16",
    }  # fmt: skip
    for reason, applies in reasons.items():
        if config.memory.early_update and applies:
            raise BadInput(f"--early_update can't be combined with {reason}")


def _is_same_path(one: str | None, other: str) -> bool:
    return one is not None and Path(one).resolve() == Path(other).resolve()
