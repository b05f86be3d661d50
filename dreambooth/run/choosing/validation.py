"""Validations: pictures of the validation prompts, and measures of the model in training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.drawing import plots, sampling
from dreambooth.files import atomic
from dreambooth.run import output_folder
from dreambooth.run.choosing import score
from dreambooth.run.choosing.judges import Judges
from dreambooth.system import libraries, processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from dreambooth.config.commands import DrawSettings
    from dreambooth.config.run_sections import LoggingSettings
    from dreambooth.models.family.base import Family
    from dreambooth.run.tracking import NullTracker, Tracker
    from dreambooth.training.best import Entry


class Validation:
    """The validations of a run: with the same noise at every step, so that they can be compared."""

    def __init__(
        self,
        family: Family,
        drawing: DrawSettings,
        settings: LoggingSettings,
        output_dir: str,
        tracker: Tracker | NullTracker,
        judges: Judges | None = None,
    ) -> None:
        self._family, self._drawing, self._settings = family, drawing, settings
        self._output_dir, self._tracker = output_dir, tracker
        self._prompts = settings.validation_prompt or ()
        self._held_out, self._clip, self._prior_weight = judges or Judges()

    @property
    def measures(self) -> bool:
        """Check whether the model is measured."""
        return self._held_out is not None

    def is_due(self, step: int) -> bool:
        """Check whether there is one after a step in the middle of the run; before the first, the base is measured."""
        every = self._settings.validation_steps
        return every is not None and step % every == 0 and (step > 0 or self.measures)

    def run(self, step: int, history: Sequence[Entry] = ()) -> dict[str, float]:
        """Draw and measure on the first process, while the others wait; return the figures, with the score.

        `history` are the figures so far, those of the base first.
        """
        figures: dict[str, float] = {}
        with processes.together():
            if processes.is_first():
                figures = self._run(step, history)
        return processes.broadcast(figures)

    def _run(self, step: int, history: Sequence[Entry]) -> dict[str, float]:
        found: dict[str, float | None] = dict(self._held_out.figures()) if self._held_out else {}
        groups, of_classes = self._draw(step)
        if not self.measures:
            return {}
        if self._clip is not None:
            found |= self._clip.figures(groups, of_classes)
            base = history[0].figures if history else found
            value = score.of_measures(found, base, self._clip.figures_of_subject())
        else:
            value = score.of_losses(found, self._prior_weight)
        figures = {**{name: each for name, each in found.items() if each is not None}, score.SCORE: value}
        self._tracker.add_scalars({f"validation/{name}": each for name, each in figures.items()}, step)
        curves = [*((entry.step, entry.figures) for entry in history), (step, figures)]
        if len(curves) > 1:
            atomic.write_picture(Path(self._output_dir) / output_folder.CURVES, plots.curves(curves, score.SCORE))
        return figures

    def _draw(self, step: int) -> tuple[list[list[Image]], list[list[Image]]]:
        """Draw the pictures of each prompt, and of each class prompt that is measured; log and save the first."""
        count, classes = self._settings.validation_count, self._clip.class_prompts if self._clip else []
        prompts = [*self._prompts, *classes]
        if not prompts:
            return [], []
        drawn = list(sampling.draw(self._family, self._drawing, sampling.requests_for(prompts, count)))
        libraries.release_memory()  # of the networks that were loaded again for it
        groups = [drawn[first : first + count] for first in range(0, len(drawn), count)]
        pictures = groups[: len(self._prompts)]
        save_samples(self._output_dir, step, self._prompts, pictures, self._drawing.seed)
        for number, (prompt, several) in enumerate(zip(self._prompts, pictures)):
            self._tracker.add_pictures(f"{number}_{prompt}", several, step)
        return pictures, groups[len(self._prompts) :]


def save_samples(
    folder: str | Path, step: int, prompts: Sequence[str], pictures: Sequence[Sequence[Image]], seed: int
) -> None:
    """Write the pictures of each validation prompt as samples/step-N-PROMPT-K.png, with prompt and seed as text."""
    for index, (prompt, several) in enumerate(zip(prompts, pictures)):
        for number, picture in enumerate(several):
            text = {"prompt": prompt, "picture": number, "seed": seed, "updates": step}
            path = Path(folder) / output_folder.SAMPLES / f"step-{step}-{index}-{number}.png"
            atomic.write_picture(path, picture, text)
