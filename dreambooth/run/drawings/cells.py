"""The pictures of a grid as files: each is drawn once, and kept until its settings or its model change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dreambooth.files import moves, records
from dreambooth.models import registry
from dreambooth.run.drawings import names
from dreambooth.system import console, disk, libraries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from dreambooth.models.family.base import Family
    from dreambooth.run.drawings.axes import Axis

_KEY = "cell"  # in a picture's text
_WEIGHTS = (".safetensors", ".pdparams", ".bin", ".pt", ".ckpt")
_INDICES = (moves.INDEX, records.STATE)


@dataclass(frozen=True)
class Cell:
    """A picture of a grid: its place, its settings by the axes' names, and its file."""

    row: int
    column: int
    values: Mapping[str, Any]
    key: str
    path: Path

    @property
    def model(self) -> tuple[Any, Any]:
        """What of it decides on the model to load."""
        return self.values["checkpoint"], self.values["lora_scale"]

    @property
    def drawing(self) -> tuple[Any, ...]:
        """What of it decides on a drawing, beside the prompt: pictures that share it are drawn together."""
        return tuple(self.values[name] for name in ("seed", "guidance", "steps", "scheduler"))

    def is_there(self) -> bool:
        """Check whether its picture is there, whole and of these settings."""
        try:
            with Image.open(self.path) as picture:
                picture.load()
                return bool(picture.info.get(_KEY) == self.key)
        except Exception:  # no file, or a damaged one, of which Pillow raises a dozen kinds
            return False

    def save(self, picture: Image.Image, text: Mapping[str, Any]) -> None:
        """Write its picture, with its settings in its text."""
        names.save(picture, self.path, {**text, _KEY: self.key})

    def read(self, side: int) -> Image.Image:
        """Read its picture, with its longer side at most `side`: a sheet of hundreds shows them small."""
        with Image.open(self.path) as found:
            picture: Image.Image = found.convert("RGB")
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        return picture


def lay_out(rows: Axis, columns: Axis, common: Mapping[str, Any], folder: Path, fixed: Mapping[str, Any]) -> list[Cell]:
    """List the cells, row by row.

    `common` are the settings by the axes' names where no axis has others; `fixed` is what else decides on a picture.
    """
    found = []
    files_by_name: dict[str, str] = {}
    for row, of_row in enumerate(rows.values):
        for column, of_column in enumerate(columns.values):
            own = {name: each for name, each in ((rows.name, of_row), (columns.name, of_column)) if each is not None}
            values = {**common, **own}
            model = values["checkpoint"]
            if model not in files_by_name:
                files_by_name[model] = summary_of_model(model)
            everything = {**values, **fixed, "files": files_by_name[model]}
            key = json.dumps(everything, sort_keys=True, default=str)  # in ASCII: a name may be no UTF-8
            short = hashlib.sha256(key.encode()).hexdigest()[:12]
            name = f"{names.slug(str(values['prompt']))}-seed{values['seed']}-{short}.png"
            found.append(Cell(row, column, values, key, folder / name))
    return found


def by_model(cells: Iterable[Cell]) -> Iterator[tuple[Cell, list[list[Cell]]]]:
    """Yield (a cell of a model, groups of cells that are drawn together), model after model."""
    models: dict[tuple[Any, Any], dict[tuple[Any, ...], list[Cell]]] = {}
    for cell in cells:
        models.setdefault(cell.model, {}).setdefault(cell.drawing, []).append(cell)
    for groups in models.values():
        several = list(groups.values())
        yield several[0][0], several


def summary_of_model(name: str | None) -> str:
    """Summarize all files that a model is read from: with those of the base, where a folder has only what changed."""
    own = summary_of_files(name)
    base = records.find_base(name) if name and Path(name).is_dir() else None
    if base is None:
        return own
    return f"{own} on {summary_of_files(base.model)} {base.revision or ''} {base.tokenizer or ''}".rstrip()


def summary_of_files(name: str | None) -> str:
    """Summarize a model's or LoRA's own files by their names, sizes and times; those of a name are the name.

    What else lies in its folder, such as checkpoints, is not its own.
    """
    if name is None:
        return ""
    path = Path(name)
    files = [path] if path.is_file() else []
    if path.is_dir():
        parts = [each for part in sorted(registry.PARTS) for each in (path / part).glob("*")]
        beside = [each for each in path.glob("*") if each.suffix in _WEIGHTS or each.name in _INDICES]
        files = [each for each in sorted((*parts, *beside)) if each.is_file()]
    if not files:
        return name
    stats = [(str(each.relative_to(path)), each.stat()) for each in files]
    text = json.dumps([[each, stat.st_size, stat.st_mtime_ns] for each, stat in stats])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def draw_missing(
    cells: Sequence[Cell],
    load: Callable[[Cell], Family],
    draw: Callable[[Family, list[Cell]], Iterable[tuple[Image.Image, Mapping[str, Any]]]],
) -> None:
    """Draw the cells that are not there, a model after the other; each is whole as soon as it is drawn.

    `draw` gives a picture and its text for each cell of a group.
    """
    missing = [cell for cell in cells if not cell.is_there()]
    if len(missing) < len(cells):
        console.print_message(f"cells     {len(cells) - len(missing)} of {len(cells)} are there already")
    if not missing:
        return
    done = 0
    models = list(by_model(missing))
    family: Family | None = load(models[0][0])  # before the bar, since it may warn
    with (
        disk.explained(lambda: f"{done} pictures before it are whole"),
        console.progress_bar(total=len(missing), desc="Drawing") as bar,
    ):
        for first, groups in models:
            family = load(first) if family is None else family
            for several in groups:
                for cell, (picture, text) in zip(several, draw(family, several)):
                    cell.save(picture, text)
                    done += 1
                    bar.update()
            family = None
            libraries.release_memory()  # for the next model
