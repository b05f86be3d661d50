"""The records of a run: training_args.json beside its result, and state.json in each of its checkpoints."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from dreambooth.files import atomic, embeddings, lora, moves
from dreambooth.files.safetensors import Reader, shown
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from dreambooth.system.types import JSON, Array, Arrays

RESULT, STATE = "training_args.json", "state.json"
_OWN_CHECKSUM = "checksum"  # the key of state.json for its own
_CHUNK = 1 << 20  # bytes


class Choice(TypedDict, total=False):
    """What a record has of a run that was measured on the way, or has buckets."""

    validations: list[dict[str, float | None]]  # None: no number
    saved_step: int  # whose weights were saved, where that was chosen
    sizes: list[list[int]]  # that pictures had, where there were several


class Record(Choice):
    """The content of training_args.json, from which the result can be made again."""

    flags: dict[str, Any]
    base_model: str  # as the run was given it
    base_folder: str | None  # its absolute path, unless it is a name on the hub
    base_weights: str  # its fingerprint
    base_index: dict[str, Any]  # the classes of its parts, as model_index.json has them
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
    checksums: dict[str, str]  # that of every other file; empty in checkpoints of earlier versions


@dataclass(frozen=True)
class Base:
    """The model that a folder needs which holds only the weights that a run changed."""

    model: str
    revision: str | None
    tokenizer: str | None
    is_checkpoint: bool = False  # of the networks that train; otherwise the file of a LoRA
    # of the LoRA in a checkpoint, whose weights do not contain it, beside what its layers have
    lora_scale: float | None = None
    weights: str | None = None  # the fingerprint that the model had
    has_lora: bool = True  # the file of one, unless it is a checkpoint; a learned word may be alone
    without_t5: bool = False  # the model was loaded so

    @property
    def is_lora(self) -> bool:
        """Whether the weights are a LoRA."""
        return self.lora_scale is not None if self.is_checkpoint else self.has_lora

    @property
    def kind(self) -> str:
        """The folder's content in words."""
        return "checkpoint" if self.is_checkpoint else "LoRA" if self.has_lora else "learned word"


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
        except (ValueError, OSError) as error:
            raise BadInput(f"{flag} {name}: this checkpoint is not whole: {error}") from None
        except (KeyError, TypeError, AttributeError, ArithmeticError):
            raise BadInput(f"{flag} {name}: this checkpoint does not name its base model") from None
    has_lora = lora.is_in(folder)
    if not has_lora and not embeddings.is_in(folder):
        return None
    try:
        return _base(atomic.read_json(folder / RESULT), has_lora=has_lora)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        remedy = "and this folder as --lora of infer.py" if has_lora else "and load the word into it"
        what = "LoRA" if has_lora else "learned word"
        raise BadInput(
            f"{flag} {name}: it holds a {what}, but no {RESULT} that names the base model; give that model, {remedy}"
        ) from None


def read_words(folder: Path, part: str, flag: str) -> dict[str, Array]:
    """Read the vectors of the words in the folder of a result, or in that part of a checkpoint; or of none."""
    if not (folder / STATE).is_file():
        return embeddings.read(folder, flag)
    if part not in weights_by_part(folder, flag):
        return {}
    try:
        return embeddings.checked(weights_of_part(folder, part, flag))
    except ValueError as error:
        raise BadInput(f"{flag} {folder}: {error}") from None


def is_without_t5(folder: str | None, flag: str = "--lora") -> bool:
    """Check whether the folder of a LoRA says that it was trained without T5, and so is to be drawn with."""
    if folder is None or not (Path(folder) / RESULT).is_file():
        return False
    base = find_base(folder, flag)
    return base is not None and base.without_t5


def _base(record: Mapping[str, Any], is_checkpoint: bool = False, has_lora: bool = False) -> Base:
    """Read the base from a record; any of several errors where somebody edited it."""
    model, folder, flags = record["base_model"], record.get("base_folder"), record["flags"]
    revision, tokenizer, weights = flags["revision"], flags["tokenizer_name"], record.get("base_weights")
    if not isinstance(model, str) or not model or "\0" in model:
        raise TypeError("no name")
    if not all(isinstance(each, (str, type(None))) for each in (folder, revision, tokenizer, weights)):
        raise TypeError("no names")
    if folder and "\0" not in folder and Path(folder).is_dir():  # the name may be relative to another folder
        model = folder
    scale = None
    if is_checkpoint and (rank := flags.get("lora_rank")):
        alpha = flags.get("lora_alpha")
        if not all(isinstance(each, (int, float)) for each in (rank, alpha or 0)):
            raise TypeError("no numbers")
        scale = float(rank if alpha is None else alpha) / rank
        if flags.get("use_rslora") or flags.get("lora_ranks") or flags.get("lora_alphas"):
            scale = 1.0  # each layer has its own beside it
        if not math.isfinite(scale):
            raise ArithmeticError("no scale")
    return Base(model, revision, tokenizer, is_checkpoint, scale, weights, has_lora, bool(flags.get("without_t5")))


def check_lora(path: str | Path, flag: str) -> None:
    """Refuse a path that names no LoRA: neither its file, nor its folder, nor the checkpoint of one."""
    if _checkpoint_of_lora(path, flag) is None:
        lora.find_file(path, flag)


def read_lora(path: str | Path, flag: str, prefixes: Mapping[str, str]) -> dict[str, lora.Layers]:
    """Read the matrices by part and layer from the file of a LoRA, from its folder, or from a checkpoint of one."""
    base = _checkpoint_of_lora(path, flag)
    if base is None or base.lora_scale is None:
        return lora.read(lora.find_file(path, flag), flag, prefixes)
    found = {}
    for part in weights_by_part(Path(path), flag).keys() & set(prefixes.values()):
        weights = weights_of_part(Path(path), part, flag)
        try:
            layers = lora.of_checkpoint(weights, part)
        except ValueError as error:
            raise BadInput(f"{flag} {path}: {error}") from None
        scale = np.float32(base.lora_scale)
        found[part] = {name: each._replace(up=each.up * scale) for name, each in layers.items()}
    return found


def _checkpoint_of_lora(path: str | Path, flag: str) -> Base | None:
    base = find_base(path, flag) if (Path(path) / STATE).is_file() else None
    return base if base and base.lora_scale is not None else None


def weights_by_part(folder: Path, flag: str) -> dict[str, Path]:
    """Map each part of a checkpoint to the file of its weights."""
    found = {path.parent.name: path for path in sorted(folder.glob("*/*.safetensors"))}
    if not found:
        raise BadInput(f"{flag} {folder}: this checkpoint has no weights")
    return found


def weights_of_part(folder: Path, part: str, flag: str) -> Arrays:
    """Read the weights of a checkpoint's part; their average where the run keeps one, as in its result."""
    path, path_of_average = weights_by_part(folder, flag)[part], folder / "average.safetensors"
    try:
        check_sums(folder, read_state(folder), (path, path_of_average))
        weights: Arrays = Reader(path)
        if path_of_average.is_file():
            average, own = Reader(path_of_average), weights
            weights = {name: average.get(f"{part}.{name}", own[name]) for name in own}
        return weights
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(f"{flag} {folder}: it can't be read ({error})") from None


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


def has_zero_snr(folder: Path) -> bool:
    """Check whether the run of a result or of a checkpoint changed its noise schedule to end in noise alone."""
    flags = read(folder).get("flags")
    return isinstance(flags, dict) and bool(flags.get("zero_terminal_snr"))


def read_state(folder: Path) -> State:
    """Read state.json of a whole checkpoint; ValueError names the fault of one that is not whole."""
    try:
        state: State = _unsealed(atomic.read_json(folder / STATE))
        files = state["files"]
        for key, kind in (("step", int), ("written_ns", int), ("course", dict), ("optimizer", dict), ("files", dict)):
            if not isinstance(state[key], kind):  # type: ignore[literal-required]
                raise ValueError(f"{key} is {state[key]!r}")  # type: ignore[literal-required]
        if state["step"] < 1:
            raise ValueError(f"step is {state['step']!r}")
        state["course"]["seed"]
        if not dict(state.setdefault("checksums", {})).keys() <= files.keys():
            raise ValueError("it has checksums of other files")
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


def checksum(path: Path) -> str:
    """Return the CRC-32 of a file, which finds every byte that changed; a gigabyte takes about a second."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


def check_sums(folder: Path, state: State, only: Collection[Path] = ()) -> None:
    """Raise ValueError, which names the file, where one of a checkpoint's files is not as it was written.

    `only` are the files to read, in place of all. Earlier versions wrote no checksums.
    """
    for name, expected in state["checksums"].items():
        if (not only or folder / name in only) and checksum(folder / name) != expected:
            raise ValueError(f"{shown(name)} is damaged: its bytes are not those that were written")


def sealed(state: JSON) -> JSON:
    """Return the content of state.json with its own checksum."""
    return {**state, _OWN_CHECKSUM: _checksum_of(state)}


def _unsealed(state: JSON) -> JSON:
    """Return the content of state.json without its own checksum; ValueError where that does not fit."""
    found = state.pop(_OWN_CHECKSUM, None)
    try:
        if found in (None, _checksum_of(state)):
            return state
    except RecursionError:  # a crafted file
        pass
    raise ValueError("it is damaged: its checksum is another")


def _checksum_of(value: JSON) -> str:
    return f"{zlib.crc32(atomic.as_json(value).encode()):08x}"
