"""The settings nearest to a run's own that fit the memory, in the order of their harm to time and result."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from dreambooth.config.config import Config

_RANK = 4
_SIZES = (384, 256)  # below, a large model draws little


def nearest(
    config: Config, peak_of: Callable[[Config], float], room: float, impossible: Container[str] = ()
) -> list[tuple[str, float]]:
    """Return (flags, peak) of the first settings that fit into `room` bytes: of the same method, and of a LoRA.

    `impossible` are flags that the run could not take. A LoRA goes before a lower resolution.
    """
    methods = [config]
    if not config.lora.lora_rank and (lora := _with(config, "lora", lora_rank=_RANK)):
        methods.append(lora)
    found = []
    for method in methods:
        steps = [step for step in _steps(method) if step.flags.split()[0] not in impossible]
        fitting = next((count for count in range(len(steps) + 1) if _fits(method, steps[:count], peak_of, room)), None)
        if fitting is None:
            continue
        chosen = steps[:fitting]
        for step in chosen[:-1]:  # an earlier one may be in vain
            without = [each for each in chosen if each is not step]
            if _fits(method, without, peak_of, room):
                chosen = without
        flags = [f"--lora_rank {_RANK}"] if method is not config else []
        found.append((" ".join([*flags, *_distinct(chosen)]), peak_of(_changed(method, chosen))))
    return sorted(found, key=lambda each: "--resolution" in each[0])


class _Step(NamedTuple):
    """A change that takes less memory."""

    flags: str
    section: str
    values: dict[str, Any]


def _steps(config: Config) -> list[_Step]:
    """List the changes, the least harmful first; a later one of the same flag replaces an earlier one."""
    steps = []
    batch = config.optimizer.train_batch_size
    if batch > 1:
        count = batch * config.optimizer.gradient_accumulation_steps
        one = {"train_batch_size": 1, "gradient_accumulation_steps": count}
        steps.append(_Step(f"--train_batch_size 1 --gradient_accumulation_steps {count}", "optimizer", one))
    if config.concepts.with_prior_preservation or config.logging.validation_prompt:
        steps.append(_Step("--sample_batch_size 1", "drawing", {"sample_batch_size": 1}))
    if not config.lora.lora_rank:
        steps.append(_Step("--early_update", "memory", {"early_update": True}))
    steps.append(_Step("--gradient_checkpointing", "memory", {"gradient_checkpointing": True}))
    if config.lora.lora_rank:
        steps.append(_Step("--mixed_precision fp16", "memory", {"mixed_precision": "fp16"}))
    else:
        for name in ("adamw8bit", "adafactor"):
            steps.append(_Step(f"--optimizer {name}", "optimizer", {"optimizer": name}))
    for size in _SIZES:
        if size < min(config.pictures.size):
            values = {"resolution": size, "height": None, "width": None}
            steps.append(_Step(f"--resolution {size}", "pictures", values))
    return [step for step in steps if _with(config, step.section, **step.values)]


def _distinct(steps: Sequence[_Step]) -> list[str]:
    """Return the flags of the steps, the last of each flag."""
    return list({step.flags.split()[0]: step.flags for step in steps}.values())


def _changed(config: Config, steps: Sequence[_Step]) -> Config:
    """Return the settings with some changes; one that can't be combined with those before is left out."""
    for step in steps:
        config = _with(config, step.section, **step.values) or config
    return config


def _fits(config: Config, steps: Sequence[_Step], peak_of: Callable[[Config], float], room: float) -> bool:
    return peak_of(_changed(config, steps)) <= room


def _with(config: Config, section: str, **values: Any) -> Config | None:
    """Return the settings with some changed; None where they are so already, or can't be combined."""
    before = getattr(config, section)
    try:
        after = dataclasses.replace(before, **values)
        return None if after == before else dataclasses.replace(config, **{section: after})
    except BadInput:
        return None
