"""The axes of a grid of drawings: what differs from row to row, and from column to column."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dreambooth.config.run_sections import SchedulerName
from dreambooth.files import embeddings, lora, moves
from dreambooth.run import checkpoints
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_CELLS = 400
_MOST_VALUES = 100  # of an axis
_RESULT = ("result", "last")  # the names of what stands beside the checkpoints
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")


@dataclass(frozen=True)
class Axis:
    """A setting, its values, and what they are called on the sheet."""

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]


def read(given: Sequence[str], prompts: Sequence[str], model_path: str, has_lora: bool) -> tuple[Axis, Axis]:
    """Read --grid as (rows, columns); the rows of a single axis are the prompts. Raises BadInput."""
    found = [_read_axis(text, prompts, model_path, has_lora) for text in given]
    names = [axis.name for axis in found]
    if len(found) > 2:
        raise BadInput(f"--grid: {', '.join(names)} are {len(found)} axes; give one or two")
    if len({*names}) < len(names):
        raise BadInput(f"--grid: {names[0]} stands there twice")
    if "prompt" not in names:
        if len(found) == 2 and len(prompts) > 1:
            raise BadInput(f"--grid {' '.join(names)}: with {len(prompts)} prompts, one of the axes must be prompt")
        if len(found) == 1:
            found.insert(0, _of_prompts(prompts))
    elif len(found) == 1:
        found.append(Axis("seed", (None,), ("",)))  # that of --seed
    cells = len(found[0].values) * len(found[1].values)
    if cells > MOST_CELLS:
        raise BadInput(f"--grid: {cells} pictures are too many for a sheet; give at most {MOST_CELLS}")
    return found[0], found[1]


def _read_axis(text: str, prompts: Sequence[str], model_path: str, has_lora: bool) -> Axis:
    name, equals, listed = text.partition("=")
    if name == "prompt":
        if equals:
            raise BadInput(f"--grid {text}: the prompts are those of --prompt; write prompt alone")
        return _of_prompts(prompts)
    words = [word.strip() for word in listed.split(",")]
    where = f"--grid {text}"
    if name not in {*_READERS, "checkpoint"}:
        known = ", ".join(["prompt", "checkpoint", *_READERS])
        raise BadInput(f"{where}: no axis of that name; there are {known}")
    if not all(words):
        example = {"checkpoint": "all", "scheduler": "ddim,euler", "seed": "0-3"}.get(name, "1,2")
        raise BadInput(f"{where}: an axis needs values, as {name}={example}")
    if name == "checkpoint":
        axis = _of_checkpoints(words, model_path, where)
    else:
        values = [value for word in words for value in _READERS[name](word, where)]
        labels = tuple(f"{each:g}" if isinstance(each, float) else str(each) for each in values)
        axis = Axis(name, tuple(values), labels)
    if name == "lora_scale" and not has_lora:
        raise BadInput(f"{where}: it needs --lora, or a LoRA as --model_path")
    if len({*axis.values}) < len(axis.values):
        raise BadInput(f"{where}: a value stands there twice")
    return axis


def _of_prompts(prompts: Sequence[str]) -> Axis:
    if len({*prompts}) < len(prompts):
        raise BadInput("--prompt: a prompt stands there twice, and a grid has a row for each")
    return Axis("prompt", tuple(prompts), tuple(prompts))


def _of_checkpoints(words: Sequence[str], model_path: str, where: str) -> Axis:
    """Find the checkpoints of a run by their names or numbers, and its result."""
    folder = Path(model_path)
    if not folder.is_dir():
        raise BadInput(f"{where}: --model_path {folder} is no folder of a run")
    whole = {each.folder.name: each.folder for each in checkpoints.scan(folder)[0]}
    has_result = (folder / moves.INDEX).exists() or lora.is_in(folder) or embeddings.is_in(folder)
    found: list[tuple[str, str]] = []  # (label, folder)
    for word in words:
        if word == "all":
            in_order = sorted(whole, key=lambda name: int(name.rpartition("-")[2]))
            found += [(name.rpartition("-")[2], str(whole[name])) for name in in_order]
            if has_result:
                found.append(("result", model_path))
        elif word in _RESULT:
            if not has_result:
                raise BadInput(f"{where}: {folder} has no result yet")
            found.append(("result", model_path))
        else:
            name = f"checkpoint-{word}" if word.isdecimal() else word
            if name not in whole:
                there = ", ".join([*whole, *(["result"] if has_result else [])]) or "nothing that draws"
                raise BadInput(f"{where}: {folder} has no whole {name}; it has {there}")
            found.append((name.rpartition("-")[2], str(whole[name])))
    if not found:
        raise BadInput(f"{where}: {folder} has no checkpoint and no result")
    return Axis("checkpoint", tuple(path for _, path in found), tuple(label for label, _ in found))


def _seeds(word: str, where: str) -> list[int]:
    if ends := _RANGE.fullmatch(word):
        first, last = map(int, ends.groups())
        if not 0 <= last - first < _MOST_VALUES:
            raise BadInput(f"{where}: {word} is no range of at most {_MOST_VALUES} seeds")
        return list(range(first, last + 1))
    return [_whole(word, where, 0)]


def _whole(word: str, where: str, least: int) -> int:
    if not re.fullmatch(r"\d{1,18}", word) or int(word) < least:
        raise BadInput(f"{where}: {word} is no whole number of at least {least}")
    return int(word)


def _number(word: str, where: str, least: float) -> float:
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        raise BadInput(f"{where}: {word} is no number" + (f" of at least {least:g}" if least == 0 else ""))
    return value


def _scheduler(word: str, where: str) -> str:
    if word not in get_args(SchedulerName):
        raise BadInput(f"{where}: no scheduler {word}; there are {', '.join(get_args(SchedulerName))}")
    return word


_READERS: dict[str, Callable[[str, str], list[Any]]] = {
    "seed": _seeds,
    "lora_scale": lambda word, where: [_number(word, where, -1e6)],
    "guidance": lambda word, where: [_number(word, where, 0)],
    "steps": lambda word, where: [_whole(word, where, 1)],
    "scheduler": lambda word, where: [_scheduler(word, where)],
}
