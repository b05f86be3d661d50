"""The page that compares several runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.run.report import listing, pages, single
from dreambooth.run.report.contents import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dreambooth.run.report.contents import Run

_MOST_ROWS = 3  # pictures of a prompt from each run


def names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that tell several folders apart."""
    parts = [each.resolve().parts for each in folders]
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        found = [str(Path(*each[-count:])) for each in parts]
        if len({*found}) == len(found):
            return found
    return [str(each) for each in folders]


def page(runs: Sequence[Run]) -> str:
    """Return the page: what differs between runs, curves over each other, pictures side by side, and measures."""
    at_end = [single.figures_at_end(run) for run in runs]
    return pages.render(
        "comparison.html",
        title=" · ".join(run.name for run in runs),
        runs=runs,
        differences=listing.differences([run.record for run in runs]),
        charts=single.charts_of(runs),
        series=together(runs),
        measures=list(dict.fromkeys(name for _, figures in at_end for name in figures)),
        at_end=at_end,
        machines=[dict(listing.machine_rows(run.record))["device"] for run in runs],
    )


def together(runs: Sequence[Run]) -> list[Series]:
    """Put the pictures of each prompt that runs have in common into one series: the rows of each run, over all steps.

    A prompt that one run alone has is left out, unless no prompt is common.
    """
    prompts = list(dict.fromkeys(each.prompt for run in runs for each in run.series))
    owners = {prompt: [run for run in runs if any(each.prompt == prompt for each in run.series)] for prompt in prompts}
    shared = [prompt for prompt in prompts if len(owners[prompt]) > 1]
    found = []
    for prompt in shared or prompts:
        own = [(run, each) for run in owners[prompt] for each in run.series if each.prompt == prompt]
        steps = tuple(sorted({step for _, each in own for step in each.steps}))
        rows, labels = [], []
        for run, each in own:
            for label, row in list(zip(each.labels, each.rows))[:_MOST_ROWS]:
                at = dict(zip(each.steps, row))
                rows.append(tuple(at.get(step) for step in steps))
                labels.append(f"{run.name} · {label}")
        # the same picture of all runs below each other
        order = sorted(range(len(rows)), key=lambda place: labels[place].rpartition(" · ")[2])
        found.append(Series(prompt, steps, tuple(rows[each] for each in order), tuple(labels[each] for each in order)))
    return found
