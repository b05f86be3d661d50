"""The page of one run, and what writes it while the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.files import atomic
from dreambooth.run import checkpoints, output_folder
from dreambooth.run.report import charts, contents, listing, pages
from dreambooth.system import console, disk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dreambooth.data.concepts import Concept
    from dreambooth.files.records import Record
    from dreambooth.run.report.charts import Chart
    from dreambooth.run.report.contents import Run, State

# the figures of training in the order of the page, and whether their points scatter
_TRAINING = {
    "loss": True,
    "instance_loss": True,
    "prior_loss": True,
    "learning_rate": False,
    "gradient_norm": True,
    "pictures_per_second": True,
    "memory_gb": False,
}


class Report:
    """The page of a run in its output folder, written anew while it goes on."""

    def __init__(self, folder: str | Path, record: Record, concepts: Sequence[Concept], enabled: bool = True) -> None:
        self._folder, self._record, self._concepts = Path(folder), record, concepts
        self._is_enabled = enabled

    def write(self, step: int, state: State = "running", record: Record | None = None) -> None:
        """Write the page; `record` is that of the result. A page that can't be written ends no run."""
        if not self._is_enabled:
            return
        try:
            run = contents.of_folder(self._folder, record or self._record, state, step, self._concepts)
            write(run, self._folder / output_folder.REPORT)
        except Exception as error:  # hours of training are worth more than a page of them
            why = disk.reason(error) or f"{type(error).__name__}: {error}"
            console.warn(f"{self._folder / output_folder.REPORT}: {why}; the run goes on")


def write(run: Run, path: Path) -> None:
    """Write the page of a run."""
    atomic.write_text(path, page(run))


def page(run: Run) -> str:
    """Return the page of a run."""
    whole, _ = checkpoints.scan(run.folder)
    has_result = run.state == "finished"
    return pages.render(
        "report.html",
        title=f"{run.name} · DreamBooth",
        run=run,
        charts=charts_of([run]),
        topics=listing.topics(run.record["flags"]),
        machine=listing.machine_rows(run.record),
        commands=list(listing.commands(run.folder, run.record, has_result, whole[-1].folder if whole else None)),
        measures=run.names("validation"),
        summary=_summary(run),
    )


def charts_of(runs: Sequence[Run]) -> list[Chart]:
    """Draw each figure over the steps, with a curve for each run."""
    marked = runs[0].best_step if len(runs) == 1 else None
    found = [
        charts.chart(name, [(run.name, run.figures("training", name)) for run in runs], smooth)
        for name, smooth in _all_names(runs).items()
    ]
    measured = dict.fromkeys(name for run in runs for name in run.names("validation"))
    if contents.SCORE in measured:  # the first
        measured = {contents.SCORE: None, **measured}
    found += [
        charts.chart(name, [(run.name, run.figures("validation", name)) for run in runs], marked_step=marked)
        for name in measured
    ]
    return [each for each in found if each is not None]


def _all_names(runs: Sequence[Run]) -> dict[str, bool]:
    names = {name for run in runs for name in run.names("training")}
    return {
        name: _TRAINING.get(name, True) for name in (*_TRAINING, *sorted(names - _TRAINING.keys())) if name in names
    }


def _summary(run: Run) -> Mapping[str, Any]:
    """Return what stands at the top: the figures at the end."""
    losses = run.figures("training", "loss")
    smooth = charts.chart("loss", [("", losses)], smooth=True) if losses else None
    step, figures = figures_at_end(run)
    return {"loss": smooth.curves[0].last[1] if smooth else None, "figures": figures, "figures_step": step}


def figures_at_end(run: Run) -> tuple[int, dict[str, float]]:
    """Return the figures of the best validation, or else of the last, with the score first."""
    found = {step: figures for step, figures in run.validations.items() if figures}
    if not found:
        return 0, {}
    step = run.best_step if run.best_step in found else max(found)
    scored = {contents.SCORE: found[step][contents.SCORE]} if contents.SCORE in found[step] else {}
    return step, {**scored, **found[step]}
