"""The records of a run: training_args.json beside its result, and state.json in each of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from dreambooth.files import atomic, lora, moves
from dreambooth.files.safetensors import shown
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

RESULT, STATE = "training_args.json", "state.json"


class Record(TypedDict):
    """The content of training_args.json, from which the result can be made again."""

    flags: dict[str, Any]
    base_model: str
    steps: int
    processes: int
    machine: dict[str, Any]
    concepts: list[dict[str, Any]]
    versions: dict[str, str]


class State(TypedDict):
    """The content of state.json; the JSON of each Stateful stands beside it under its name."""

    step: int
    written_ns: int
    course: dict[str, Any]
    optimizer: dict[str, Any]
    arguments: dict[str, Any]
    files: dict[str, int]  # the size of every other file


@dataclass(frozen=True)
class Base:
    """The model that a folder needs which holds only the weights that a run changed."""

    model: str
    revision: str | None
    tokenizer: str | None
    is_checkpoint: bool = False  # of the networks that train; otherwise the file of a LoRA
    lora_scale: float | None = None  # alpha over rank of the LoRA in a checkpoint, whose weights do not contain it

    @property
    def is_lora(self) -> bool:
        """Whether the weights are a LoRA."""
        return not self.is_checkpoint or self.lora_scale is not None


def find_base(name: str | Path, flag: str = "--model_path") -> Base | None:
    """Return the base of the LoRA or the checkpoint that train_dreambooth.py wrote into this folder.

    None if there is neither, or the whole pipeline lies there. An interrupted move of the result is completed.
    """
    folder = Path(name)
    moves.finish_move(folder, flag)
    if (folder / moves.INDEX).exists():
        return None
    if (folder / STATE).is_file():
        try:
            return _base(read_state(folder).get("arguments"), is_checkpoint=True)
        except ValueError as error:
            raise BadInput(f"{flag} {name}: this checkpoint is not whole: {error}") from None
        except (KeyError, TypeError, ZeroDivisionError):
            raise BadInput(f"{flag} {name}: this checkpoint does not name its base model") from None
    if not lora.is_in(folder):
        return None
    try:
        return _base(atomic.read_json(folder / RESULT))
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(
            f"{flag} {name}: it holds a LoRA, but no {RESULT} that names the base model; give that model,"
            " and this folder as --lora of infer.py"
        ) from None


def _base(record: Mapping[str, Any], is_checkpoint: bool = False) -> Base:
    """Read the base from a record; any of several errors where somebody edited it."""
    model, flags = record["base_model"], record["flags"]
    revision, tokenizer = flags["revision"], flags["tokenizer_name"]
    if not isinstance(model, str) or not all(isinstance(each, (str, type(None))) for each in (revision, tokenizer)):
        raise TypeError("no names")
    scale = None
    if is_checkpoint and (rank := flags.get("lora_rank")):
        alpha = flags.get("lora_alpha")
        scale = (rank if alpha is None else alpha) / rank
    return Base(model, revision, tokenizer, is_checkpoint, scale)


def read(folder: Path) -> dict[str, Any]:
    """Read the record of a result or of a checkpoint, with the number of its updates as steps; empty without one."""
    if record := read_result(folder):
        return record
    try:
        state = read_state(folder)
        return {**state["arguments"], "steps": state["step"]}
    except (ValueError, KeyError, TypeError):
        return {}


def read_result(folder: Path) -> dict[str, Any] | None:
    """Read the record of a result; None where no run wrote one."""
    try:
        record = dict(atomic.read_json(folder / RESULT))
    except (OSError, ValueError):
        return None
    return record if {"flags", "base_model", "concepts", "versions"} <= record.keys() else None


def read_state(folder: Path) -> State:
    """Read state.json of a whole checkpoint; ValueError names the fault of one that is not whole."""
    try:
        state: State = atomic.read_json(folder / STATE)
        files = state["files"]
        for key, kind in (("step", int), ("written_ns", int), ("course", dict), ("optimizer", dict), ("files", dict)):
            if not isinstance(state[key], kind):  # type: ignore[literal-required]
                raise ValueError(f"{key} is {state[key]!r}")  # type: ignore[literal-required]
        if state["step"] < 1:
            raise ValueError(f"step is {state['step']!r}")
        state["course"]["seed"]
    except FileNotFoundError:
        raise ValueError(f"it has no {STATE}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"its {STATE} can't be read ({error})") from None
    for name, size in files.items():
        if not (folder / name).is_file():
            raise ValueError(f"{shown(name)} is missing")
        if (folder / name).stat().st_size != size:
            raise ValueError(f"{shown(name)} has {(folder / name).stat().st_size} bytes instead of {size}")
    return state
