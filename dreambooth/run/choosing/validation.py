"""Validations: pictures of the validation prompts and of the class, and measures of the model in training."""

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
        classes: Sequence[str] = (),
    ) -> None:
        self._family, self._drawing, self._settings = family, drawing, settings
        self._output_dir, self._tracker = output_dir, tracker
        self._prompts = settings.validation_prompt or ()
        self._held_out, self._clip, self._prior_weight = judges or Judges()
        self._classes = list(dict.fromkeys(classes))  # the prompts that are drawn at the end, for the report

    @property
    def measures(self) -> bool:
        """Check whether the model is measured."""
        return self._held_out is not None

    def is_due(self, step: int) -> bool:
        """Check whether there is one after a step in the middle of the run; before the first, the base is measured."""
        every = self._settings.validation_steps
        return every is not None and step % every == 0 and (step > 0 or self.measures)

    def run(self, step: int, history: Sequence[Entry] = (), is_last: bool = False) -> dict[str, float]:
        """Draw and measure on the first process, while the others wait; return the figures, with the score.

        `history` are the figures so far, those of the base first.
        """
        figures: dict[str, float] = {}
        with processes.together():
            if processes.is_first():
                figures = self._run(step, history, is_last)
        return processes.broadcast(figures)

    def _run(self, step: int, history: Sequence[Entry], is_last: bool) -> dict[str, float]:
        found: dict[str, float | None] = dict(self._held_out.figures()) if self._held_out else {}
        groups, of_classes = self._draw(step, is_last)
        if not self.measures:
            self._tracker.add_scalars({}, step, "validation")  # there was one
            return {}
        if self._clip is not None:
            found |= self._clip.figures(groups, of_classes)
            base = history[0].figures if history else found
            value = score.of_measures(found, base, self._clip.figures_of_subject())
        else:
            value = score.of_losses(found, self._prior_weight)
        figures = {**{name: each for name, each in found.items() if each is not None}, score.SCORE: value}
        self._tracker.add_scalars(figures, step, "validation")
        curves = [*((entry.step, entry.figures) for entry in history), (step, figures)]
        if len(curves) > 1:
            atomic.write_picture(Path(self._output_dir) / output_folder.CURVES, plots.curves(curves, score.SCORE))
        return figures

    def _draw(self, step: int, is_last: bool) -> tuple[list[list[Image]], list[list[Image]]]:
        """Draw, log and save the pictures of each prompt, and of each class prompt that is measured or at the end."""
        if not self._prompts:
            return [], []
        count = self._settings.validation_count
        classes = self._clip.class_prompts if self._clip else self._classes if is_last else []
        prompts = [*self._prompts, *classes]
        drawn = list(sampling.draw(self._family, self._drawing, sampling.requests_for(prompts, count)))
        libraries.release_memory()  # of the networks that were loaded again for it
        groups = [drawn[first : first + count] for first in range(0, len(drawn), count)]
        pictures, of_classes = groups[: len(self._prompts)], groups[len(self._prompts) :]
        for kind, texts, several in (("", self._prompts, pictures), (output_folder.OF_CLASS, classes, of_classes)):
            save_samples(self._output_dir, step, texts, several, self._drawing.seed, kind)
            for number, (prompt, each) in enumerate(zip(texts, several)):
                group = "class" if kind else "validation"
                self._tracker.add_pictures(f"{group}/{number}_{prompt}", each, step)
        return pictures, of_classes


def save_samples(
    folder: str | Path,
    step: int,
    prompts: Sequence[str],
    pictures: Sequence[Sequence[Image]],
    seed: int,
    kind: str = "",
) -> None:
    """Write the pictures of each prompt as samples/step-N-PROMPT-K.png, with prompt and seed as text.

    `kind` stands before the names.
    """
    for index, (prompt, several) in enumerate(zip(prompts, pictures)):
        for number, picture in enumerate(several):
            text = {"prompt": prompt, "picture": number, "seed": seed, "updates": step}
            path = Path(folder) / output_folder.SAMPLES / f"{kind}step-{step}-{index}-{number}.png"
            atomic.write_picture(path, picture, text)
