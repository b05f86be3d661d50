"""Pictures of the validation prompts, drawn with the model as it is, for the log and the output folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth.drawing import sampling
from dreambooth.run import output_folder
from dreambooth.system import processes

if TYPE_CHECKING:
    from dreambooth.config.config import Config
    from dreambooth.config.sections import LoggingSettings
    from dreambooth.models.families.base import Family
    from dreambooth.run.tracking import NullTracker, Tracker


def is_due(settings: LoggingSettings, step: int) -> bool:
    """Check whether pictures are to be drawn after a step in the middle of a run."""
    every = settings.validation_steps if settings.validation_prompt else None
    return every is not None and step % every == 0


def draw(config: Config, family: Family, tracker: Tracker | NullTracker, step: int) -> None:
    """Draw on the first process while the others wait.

    The pictures' noise is the same at every step, so that they can be compared.
    """
    with processes.together():
        if not processes.is_first():
            return
        prompts, count = config.logging.validation_prompt or (), config.logging.validation_count
        requests = sampling.requests_for(prompts, count)
        pictures = list(sampling.draw(family, config.draw_settings("picture"), requests))
        output_folder.save_samples(config, step, pictures)
        for number, prompt in enumerate(prompts):
            tracker.add_pictures(f"{number}_{prompt}", pictures[number * count : (number + 1) * count], step)
