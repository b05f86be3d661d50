"""What measures a run's model on the way."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from dreambooth.data.rare_words import RareWords
from dreambooth.run.choosing.held_out import EXAMPLES, HeldOut
from dreambooth.system import processes
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from dreambooth.config.config import Config
    from dreambooth.config.run_sections import ChoosingSettings
    from dreambooth.models.family.base import Family
    from dreambooth.run.choosing.measuring import ClipMeasures
    from dreambooth.run.planning import Plan
    from dreambooth.training.objective.diffusion import Diffusion


class Judges(NamedTuple):
    """The measures of a run; without any, validations draw pictures alone."""

    held_out: HeldOut | None = None
    clip: ClipMeasures | None = None
    prior_weight: float = 1.0  # of the class's loss in the score


def check_base(choosing: ChoosingSettings, is_unknown: bool) -> None:
    """Refuse to measure with a CLIP where the base model was not, which a run that goes on no longer has."""
    if choosing.clip_model_path and is_unknown:
        raise BadInput(
            "--clip_model_path: this checkpoint's run did not measure the base model so, with which pictures are"
            " compared; begin anew, or go on without it"
        )


def of(config: Config, plan: Plan, family: Family, diffusion: Diffusion) -> Judges:
    """Make the measures that a run asks for, while the encoders of pictures and prompts are in memory."""
    if config.choosing.first is None:
        return Judges()
    # the first class pictures are enough, and the others need no encoding; the base model's predictions are none
    most = EXAMPLES if config.concepts.with_prior_preservation else 0
    concepts = [dataclasses.replace(each, class_pictures=each.class_pictures[:most]) for each in plan.survey.concepts]
    if plan.held_out:
        concepts = [dataclasses.replace(each, pictures=plan.held_out) for each in concepts]
    held_out = HeldOut(family, diffusion, concepts, config.optimizer, config.pictures, plan.sizes, config.memory)
    clip = None
    if config.choosing.clip_model_path and processes.is_first():
        from dreambooth.run.choosing.measuring import ClipMeasures

        prompts = config.logging.validation_prompt or ()
        # their class prompts are drawn, whether the class is preserved or not
        named = [
            dataclasses.replace(each, class_prompt=subject.class_prompt)
            for each, subject in zip(concepts, config.concepts.subjects)
        ]
        clip = ClipMeasures(config.choosing.clip_model_path, named, prompts, RareWords(*family.tokenizers))
    return Judges(held_out, clip, config.objective.prior_loss_weight)
