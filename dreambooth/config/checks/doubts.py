"""Allowed settings that are probably a mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth.config import learning_sections
from dreambooth.config.sections import DEFAULT_WORD_RATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dreambooth.config.config import Config

_HIGH_RATE, _HIGH_WORD_RATE, _HIGH_RANK = 1e-2, 1e-1, 256


def warnings(config: Config) -> Iterator[str]:
    """Explain allowed settings that are probably a mistake."""
    concepts = config.concepts
    prompts = {subject.prompt.strip() for subject in concepts.subjects}
    if any(each.prompt.strip() in prompts for each in concepts.classes):
        yield (
            "--class_prompt is the same as --instance_prompt: the class would learn to look like the subject;"
            " leave the rare word out of the class prompt"
        )
    if not concepts.with_prior_preservation:
        if concepts.class_captions != "off":
            yield "--class_captions is not used without --with_prior_preservation"
        names = ("class_data_dir", "class_prompt", "class_negative_prompt")
        is_used = concepts.prior_by_prediction or config.word.learn_identifier  # which begins as the class
        for name in (each for each in names if not (is_used and each == "class_prompt")):
            if getattr(concepts, name) or any(getattr(each, name, None) for each in concepts.subjects):
                yield f"--{name} is not used without --with_prior_preservation"
    finds_rate = config.optimizer.optimizer in learning_sections.RATE_FREE
    if config.base_rate > (_HIGH_WORD_RATE if config.word.is_alone else _HIGH_RATE) and not finds_rate:
        yield (
            f"--learning_rate {config.base_rate:g} is very high; {learning_sections.DEFAULT_RATE:g} is usual for a"
            f" whole network, {learning_sections.DEFAULT_LORA_RATE:g} for a LoRA, and {DEFAULT_WORD_RATE:g} for a word"
        )
    if config.leaves_networks and config.base_rate <= 2 * learning_sections.DEFAULT_RATE:
        what, usual = (
            ("a word", DEFAULT_WORD_RATE) if config.word.is_alone else ("a LoRA", learning_sections.DEFAULT_LORA_RATE)
        )
        yield (
            f"--learning_rate {config.base_rate:g} is a whole network's, at which {what} learns next to nothing;"
            f" without the flag it has {usual:g}"
        )
    rank = max(map(config.lora.rank_of, config.lora.targets)) if config.lora.lora_rank else 0
    if rank > _HIGH_RANK:
        yield f"--lora_rank {rank} is very high; ranks of 4 to 64 are usual"
    if config.memory.early_update and config.lora.lora_rank:
        yield "--early_update frees next to nothing with --lora_rank, whose gradients are small"
    if config.optimizer.text_encoder_lr and not config.model.train_text_encoder:
        yield "--text_encoder_lr is not used without --train_text_encoder"
