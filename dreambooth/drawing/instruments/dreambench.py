"""DreamBench: the subjects and the prompts of the DreamBooth paper's data set, and the figures published on it.

The set is github.com/google/dreambooth: a folder of pictures for each subject, and a file with classes and prompts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LIST = "prompts_and_classes.txt"
MEASURES = ("DINO", "CLIP-I", "CLIP-T")
LIVE = ("cat", "dog")  # classes whose subjects have the second list of prompts
_PROMPT = re.compile(r"""^\s*(['"])(?P<prompt>.*\{0\}.*\{1\}.*)\1\.format\(""")

# Stable Diffusion, by DINO ViT-S/16 and CLIP ViT-B/32; the first two and the pictures: Ruiz et al. 2023, table 1
PUBLISHED: dict[str, tuple[float, float, float | None]] = {
    "DreamBooth": (0.668, 0.803, 0.305),
    "textual inversion": (0.569, 0.780, 0.255),
    "Custom Diffusion": (0.643, 0.790, 0.305),  # as later papers report it
    "OFT": (0.632, 0.785, 0.237),  # Qiu et al. 2023, arXiv 2306.07280, and the LoRA of the same table
    "LoRA": (0.613, 0.765, 0.237),
    "real pictures": (0.774, 0.885, None),
}


class Subject(NamedTuple):
    """A subject of the set."""

    name: str
    class_name: str
    folder: Path
    templates: tuple[str, ...]  # with {0} for the identifier and {1} for the class

    def prompts(self, identifier: str) -> list[str]:
        """Return its prompts, for a subject that is called so."""
        return [each.replace("{0}", identifier).replace("{1}", self.class_name) for each in self.templates]


def list_of(data: str, flag: str = "--data") -> Path:
    """Return the file of the set's classes and prompts; the set may be in a folder called dataset."""
    folder = next((each for each in (Path(data), Path(data) / "dataset") if (each / LIST).is_file()), None)
    if folder is None:
        raise BadInput(f"{flag} {data}: there is no {LIST}; give a copy of github.com/google/dreambooth")
    return folder / LIST


def read(data: str, flag: str = "--data") -> list[Subject]:
    """Read the subjects of the set."""
    folder = list_of(data, flag).parent
    try:
        lines = (folder / LIST).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{flag} {folder / LIST}: it can't be read ({error})") from None
    templates: list[list[str]] = []  # of objects, and of live subjects
    classes: dict[str, str] = {}
    for line in lines:
        if line.strip().startswith("prompt_list"):
            templates.append([])
        elif (match := _PROMPT.match(line)) and templates:
            templates[-1].append(match["prompt"])
        elif not templates and line.count(",") == 1 and line.strip() != "subject_name,class":
            name, class_name = (part.strip() for part in line.split(","))
            classes[name] = class_name
    if len(templates) != 2 or not all(templates) or not classes:
        raise BadInput(f"{flag} {folder / LIST}: it is not the list of classes and prompts of that set")
    found = []
    for name, class_name in classes.items():
        if not name or name != Path(name).name or not (folder / name).is_dir():
            raise BadInput(f"{flag} {folder}: the folder of its subject {name} is missing")
        found.append(Subject(name, class_name, folder / name, tuple(templates[class_name in LIVE])))
    return found


def table(rows: Mapping[str, Mapping[str, float | None]], count: int) -> str:
    """Format the figures of this run, `rows`, above the published ones."""
    named = {f"published: {name}": dict(zip(MEASURES, figures)) for name, figures in PUBLISHED.items()}
    lines = ["".join(["".ljust(30), *(f"{name:>8}" for name in MEASURES)])]
    for name, figures in {**rows, **named}.items():
        values = [figures.get(measure) for measure in MEASURES]
        lines.append(name.ljust(30) + "".join(f"{'-' if value is None else f'{value:.3f}':>8}" for value in values))
    lines.append(
        f"Means over {count} subject{'s' if count > 1 else ''}. The published figures are those of Stable Diffusion, 30"
        " subjects, DINO ViT-S/16 and CLIP ViT-B/32"
    )
    return "\n".join(lines)


def means(reports: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Return the mean of each measure over the subjects that have it."""
    known = {name: [value for each in reports if (value := each.get(name)) is not None] for name in MEASURES}
    return {name: sum(values) / len(values) if values else None for name, values in known.items()}
