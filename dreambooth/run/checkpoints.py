"""Checkpoints: save, find, load and prune; each is whole or absent, and nothing that is read back is a pickle."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dreambooth.files import atomic, records, safetensors
from dreambooth.files.safetensors import Reader
from dreambooth.models import loading, saving
from dreambooth.system import console, disk, processes
from dreambooth.system.errors import BadInput, Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dreambooth.config.run_sections import SavingSettings
    from dreambooth.files.records import State
    from dreambooth.system.types import JSON, Arrays, Network, Tensors

_NAME = re.compile(r"^checkpoint-\d+$")
_LISTS = ("trained_layers", "lora_targets")  # of words; the others are of files or subjects


class Stateful(Protocol):
    """An object whose state a checkpoint keeps: its tensors in a file, the rest in state.json."""

    def state(self) -> tuple[Tensors, JSON]:
        """Return (tensors by name, JSON)."""

    def restore(self, tensors: Arrays, state: JSON) -> None:
        """Put back the result of state()."""


class Checkpoint(NamedTuple):
    """A whole checkpoint on disk."""

    folder: Path
    state: State


def save(
    output_dir: str | Path,
    step: int,
    networks: Mapping[str, Network],
    stateful: Mapping[str, Stateful],
    fingerprint: JSON,
    record: JSON,
    limit: int = 0,
) -> Path:
    """Write checkpoint-`step` from the first process, prune the old ones, and return its folder.

    It holds a folder for each network that trains, loadable by its from_pretrained, or for its LoRA; a file for each
    Stateful; and state.json with the size and the checksum of every file, which show whether a copy was cut short, or
    a disk has changed it.
    """
    folder = Path(output_dir) / f"checkpoint-{step}"
    with processes.together():
        if not processes.is_first():
            return folder
        found = {name: each.state() for name, each in stateful.items()}
        weights = [network.state_dict() for network in networks.values()]
        size = sum(saving.bytes_of(tensors) for tensors in (*weights, *(tensors for tensors, _ in found.values())))
        with atomic.whole_folder(folder, size) as temporary:
            for part, network in networks.items():
                _save_network(network, temporary / part)
            for name, (tensors, _) in found.items():
                safetensors.write(temporary / f"{name}.safetensors", tensors)
            files = {str(path.relative_to(temporary)): path for path in atomic.files_in(temporary)}
            state = {
                "step": step,
                "written_ns": _later_than(scan(output_dir)[0]),
                "course": fingerprint,
                **{name: state for name, (_, state) in found.items()},
                "arguments": record,
                "files": {name: path.stat().st_size for name, path in files.items()},
                "checksums": {name: records.checksum(path) for name, path in files.items()},
            }
            atomic.write_json(temporary / records.STATE, records.sealed(state))
        _prune(output_dir, limit)
    return folder


def _later_than(earlier: Sequence[Checkpoint]) -> int:
    """Return the time in nanoseconds; a moment after the newest checkpoint where the clock has been set back."""
    return max([time.time_ns(), *(1 + each.state["written_ns"] for each in earlier[-1:])])


def what_is_whole(output_dir: str | Path) -> str:
    """Return, as a clause, which checkpoint a full disk has left, and how to go on."""
    whole, _ = scan(output_dir)
    if not whole:
        return "there is no checkpoint: make room, and start again"
    return f"{whole[-1].folder} is whole: make room, and go on with --resume_from_checkpoint latest"


def _save_network(network: Network, folder: Path) -> None:
    """Write the files of the network's save_pretrained, without its second and third copy in memory."""
    if hasattr(network, "config"):
        saving.save_network(network, "safetensors", folder)
    else:
        folder.mkdir()
        safetensors.write(folder / "model.safetensors", network.state_dict(), {"format": "np"})


def folders(output_dir: str | Path) -> list[Path]:
    """List the folders of checkpoints, whole or not."""
    return [each for each in Path(output_dir).glob("checkpoint-*") if _NAME.match(each.name) and each.is_dir()]


def scan(output_dir: str | Path) -> tuple[list[Checkpoint], list[str]]:
    """Return (whole checkpoints from the oldest to the newest, problems of the others).

    The newest is the one written last: a fresh run may have started over in the folder of a longer one.
    """
    whole, problems = [], []
    for folder in folders(output_dir):  # others are somebody's own copy or note
        try:
            whole.append(Checkpoint(folder, records.read_state(folder)))
        except ValueError as error:
            problems.append(f"{folder} is not whole: {error}")
    return sorted(whole, key=lambda each: each.state["written_ns"]), problems


def signs_of_runs(folder: Path) -> dict[str, int]:
    """Return {name: time} of the result and the checkpoints in a folder, which change when a run writes into it."""
    signs = {each.folder.name: each.state["written_ns"] for each in scan(folder)[0]}
    with contextlib.suppress(OSError):
        signs[records.RESULT] = (folder / records.RESULT).stat().st_mtime_ns
    return signs


def find(name: str, output_dir: str | Path) -> tuple[Checkpoint | None, list[str]]:
    """Return (checkpoint, problems of others) for a value of --resume_from_checkpoint.

    There is none for "latest" in a folder without checkpoints, where a run begins. Its files are read whole once, to
    compare their checksums.
    """
    whole, problems = scan(output_dir)
    if name == "latest":
        while whole and (fault := _fault(whole[-1])):
            problems.append(f"{whole.pop().folder} is not whole: {fault}")
        if problems and not whole:
            raise BadInput(
                f"--resume_from_checkpoint latest: {output_dir} holds no whole checkpoint ({'; '.join(problems)});"
                " leave out the flag to start from the beginning"
            )
        return whole[-1] if whole else None, problems
    for folder in (Path(output_dir) / name, Path(name)):
        if folder.is_dir():
            try:
                found = Checkpoint(folder, records.read_state(folder))
                records.check_sums(*found)
                return found, []
            except (OSError, ValueError) as error:
                others = [each.folder.name for each in whole if each.folder != folder and not _fault(each)]
                remedy = f"; {others[-1]} is whole" if others else ""
                raise BadInput(f"--resume_from_checkpoint {name}: {folder} is not whole: {error}{remedy}") from None
    there = ", ".join(checkpoint.folder.name for checkpoint in whole) or "none"
    raise BadInput(f"--resume_from_checkpoint {name}: there is no such checkpoint (in {output_dir}: {there})")


def _fault(checkpoint: Checkpoint) -> str:
    """Return by what a checkpoint is not as it was written; an empty string where it is."""
    try:
        records.check_sums(*checkpoint)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def load(checkpoint: Checkpoint, networks: Mapping[str, Network], stateful: Mapping[str, Stateful]) -> None:
    """Put a checkpoint's weights and states back."""
    folder = checkpoint.folder
    states: Mapping[str, JSON] = checkpoint.state
    try:
        for part, network in networks.items():
            [path] = (folder / part).glob("*.safetensors")
            loading.set_weights(network, part, Reader(path), f"--resume_from_checkpoint {folder}")
        for name, each in stateful.items():
            each.restore(Reader(folder / f"{name}.safetensors"), states[name])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise BadInput(f"--resume_from_checkpoint {folder}: it can't be read ({error})") from None


def differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """List what differs between a checkpoint's fingerprint and the run's, as text."""

    def shown(name: str, value: object) -> str:
        if not isinstance(value, list) or name in _LISTS:
            return repr(value)
        if value and isinstance(value[0], dict):
            return f"{len(value)} subjects"
        return f"{sum(len(each) if isinstance(each, list) else 1 for each in value)} files"

    found = []
    for name in sorted(recorded.keys() | current.keys()):
        then, now = (None if each.get(name) == "" else each.get(name) for each in (recorded, current))
        if then == now:
            continue
        if isinstance(then, list) and isinstance(now, list) and _are_as_many_subjects(then, now):
            for number, (one, other) in enumerate(zip(then, now), 1):
                found += [f"subject {number}, {each}" for each in differences(one, other)]
        else:
            found.append(f"{name}: {shown(name, then)} then, {shown(name, now)} now")
    return found


def _are_as_many_subjects(then: list[Any], now: list[Any]) -> bool:
    return len(then) == len(now) and all(isinstance(each, dict) for each in (*then, *now))


def _prune(output_dir: str | Path, limit: int) -> None:
    """Remove the oldest checkpoints above the limit, if there is one; the new one must be complete."""
    if limit:
        for checkpoint in scan(output_dir)[0][:-limit]:
            atomic.remove_folder(checkpoint.folder)


class Checkpointer:
    """The checkpoints of one run: its networks, and whatever else has state, are saved and loaded together."""

    def __init__(
        self,
        settings: SavingSettings,
        networks: Mapping[str, Network],
        stateful: Mapping[str, Stateful],
        fingerprint: JSON,
        record: JSON,
    ) -> None:
        self._settings, self._networks, self._stateful = settings, networks, stateful
        self._fingerprint, self._record = fingerprint, record
        self.last: Path | None = None  # the last one that was loaded or saved

    def load(self, checkpoint: Checkpoint) -> int:
        """Put a checkpoint's weights and states back, and return its step."""
        stateful = self._stateful
        if self._settings.allow_changes:  # such as a first --ema_decay
            stateful = {name: each for name, each in stateful.items() if name in checkpoint.state}
        load(checkpoint, self._networks, stateful)
        self.last = checkpoint.folder
        return checkpoint.state["step"]

    def save(self, step: int) -> None:
        """Save the checkpoint of a step."""
        folder, limit = self._settings.output_dir, self._settings.checkpoints_total_limit
        self.last = save(folder, step, self._networks, self._stateful, self._fingerprint, self._record, limit)

    def _has(self, step: int) -> bool:
        """Check whether the last checkpoint is that of a step."""
        return self.last is not None and self.last.name == f"checkpoint-{step}"

    def save_last(self, step: int) -> None:
        """Save the checkpoint of the last step, unless it is there or not to be; without room for it, only warn."""
        if not self._settings.last_checkpoint or self._has(step):
            return
        try:
            self.save(step)
        except Exception as error:
            full = disk.as_full(error)
            if not processes.is_true_anywhere(full is not None):  # an error of one process is raised in all
                raise
            console.warn(f"no checkpoint is kept of the end, so the run can't be trained on ({full or error})")

    @contextlib.contextmanager
    def rescue(self, step: int) -> Iterator[None]:
        """Save a checkpoint of a step where the block fails, unless the last one is of that step.

        Where the disk is full that is not possible, and the user reads the block's own error.
        """
        try:
            yield
        except Exception as error:
            with contextlib.suppress(Stopped):
                if not self._has(step):
                    self.save(step)
                if not disk.reason(error):  # that error names the checkpoint itself
                    console.warn(f"the pipeline could not be finished, but {self.last} has the trained weights")
            raise
