"""Pictures of the validation prompts, drawn with the model in training, for the log and the output folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth.drawing import sampling
from dreambooth.run import output_folder
from dreambooth.system import libraries, processes

if TYPE_CHECKING:
    from dreambooth.config.commands import DrawSettings
    from dreambooth.config.run_sections import LoggingSettings
    from dreambooth.models.families.base import Family
    from dreambooth.run.tracking import NullTracker, Tracker


class Validation:
    """The validation pictures of a run: the same noise at every step, so that they can be compared."""

    def __init__(
        self,
        family: Family,
        drawing: DrawSettings,
        settings: LoggingSettings,
        output_dir: str,
        tracker: Tracker | NullTracker,
    ) -> None:
        self._family, self._drawing, self._settings = family, drawing, settings
        self._output_dir, self._tracker = output_dir, tracker
        self._prompts = settings.validation_prompt or ()

    def is_due(self, step: int) -> bool:
        """Check whether to draw after a step in the middle of the run."""
        every = self._settings.validation_steps if self._prompts else None
        return every is not None and step % every == 0

    def draw(self, step: int) -> None:
        """Draw on the first process, if there are prompts, while the others wait."""
        with processes.together():
            if processes.is_first() and self._prompts:
                count = self._settings.validation_count
                requests = sampling.requests_for(self._prompts, count)
                drawn = list(sampling.draw(self._family, self._drawing, requests))
                libraries.release_memory()  # of the networks that were loaded again for it
                pictures = [drawn[first : first + count] for first in range(0, len(drawn), count)]
                output_folder.save_samples(self._output_dir, step, self._prompts, pictures, self._drawing.seed)
                for number, (prompt, several) in enumerate(zip(self._prompts, pictures)):
                    self._tracker.add_pictures(f"{number}_{prompt}", several, step)
