"""Checkpoints: save, find, load and prune; each is whole or absent, and nothing that is read back is a pickle."""

import re
import time
from pathlib import Path

from dreambooth.files import atomic, safetensors
from dreambooth.files.safetensors import Reader
from dreambooth.models import saving
from dreambooth.system import processes
from dreambooth.system.errors import BadInput

STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
NAME = re.compile(r"^checkpoint-\d+$")


def save(config, step, networks, updates, course, record):
    """Write checkpoint-`step` from the first process, prune the old ones, and return its folder.

    It holds a folder for each network that learns, loadable by its from_pretrained, or for its LoRA; the optimizer; and
    state.json with the size of every file, by which a copy that was cut short is known.
    """
    folder = Path(config.saving.output_dir) / f"checkpoint-{step}"
    if processes.is_first():
        moments, optimizer = updates.state()
        with atomic.whole_folder(folder) as temporary:
            for name, network in networks.items():
                save_network(network, temporary / name)
            safetensors.write(temporary / OPTIMIZER, moments)
            state = {
                "step": step,
                "written_ns": time.time_ns(),
                "course": course,
                "optimizer": optimizer,
                "arguments": record,
                "files": {str(path.relative_to(temporary)): path.stat().st_size for path in atomic.files_in(temporary)},
            }
            atomic.write_json(temporary / STATE, state)
        prune(config.saving.output_dir, config.saving.checkpoints_total_limit)
    processes.wait()
    return folder


def save_network(network, folder):
    """As the network's own save_pretrained, but without a second and a third copy of it in memory."""
    folder.mkdir()
    if hasattr(network, "save_config"):
        saving.save_network(network, "safetensors", folder)
        return
    if hasattr(network, "config"):
        network.config.save_pretrained(str(folder))
    safetensors.write(folder / "model.safetensors", network.state_dict(), {"format": "np"})  # as PaddleNLP does


def read_state(folder):
    """state.json of a whole checkpoint; ValueError says what is wrong with one that is not."""
    folder = Path(folder)
    try:
        state = atomic.read_json(folder / STATE)
        files = state["files"]
        for key, kind in (("step", int), ("written_ns", int), ("course", dict), ("optimizer", dict), ("files", dict)):
            if not isinstance(state[key], kind):
                raise ValueError(f"{key} is {state[key]!r}")
        state["course"]["seed"]
    except FileNotFoundError:
        raise ValueError(f"it has no {STATE}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"its {STATE} can't be read ({error})") from None
    for name, size in files.items():
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if (folder / name).stat().st_size != size:
            raise ValueError(f"{name} has {(folder / name).stat().st_size} bytes instead of {size}")
    return state


def survey(output_dir):
    """(whole checkpoints from the oldest to the newest as (folder, state), complaints about the others). The newest is
    the one written last: a fresh run may have started over in the folder of a longer one."""
    whole, complaints = [], []
    for folder in Path(output_dir).glob("checkpoint-*"):
        if not NAME.match(folder.name) or not folder.is_dir():
            continue  # somebody's own copy or note
        try:
            whole.append((folder, read_state(folder)))
        except ValueError as error:
            complaints.append(f"{folder} is not whole: {error}")
    return sorted(whole, key=lambda each: each[1]["written_ns"]), complaints


def find(wanted, output_dir):
    """(folder, state, complaints) for the value of --resume_from_checkpoint."""
    if wanted == "latest":
        whole, complaints = survey(output_dir)
        if not whole:
            because = f" ({'; '.join(complaints)})" if complaints else ""
            raise BadInput(
                f"--resume_from_checkpoint latest: {output_dir} holds no whole checkpoint{because};"
                " leave the flag away to start from the beginning"
            )
        return *whole[-1], complaints
    for folder in (Path(output_dir) / wanted, Path(wanted)):
        if folder.is_dir():
            try:
                return folder, read_state(folder), []
            except ValueError as error:
                raise BadInput(f"--resume_from_checkpoint {wanted}: {folder} is not whole: {error}") from None
    held = ", ".join(folder.name for folder, _ in survey(output_dir)[0]) or "none"
    raise BadInput(f"--resume_from_checkpoint {wanted}: there is no such checkpoint (in {output_dir}: {held})")


def load(folder, networks):
    """Put a checkpoint's weights into the networks; returns the optimizer's tensors."""
    folder = Path(folder)
    try:
        for name, network in networks.items():
            [path] = (folder / name).glob("*.safetensors")
            weights, own = Reader(path), network.state_dict()
            mine, theirs = {key: list(value.shape) for key, value in own.items()}, weights.shapes()
            if mine != theirs:
                odd = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
                raise BadInput(
                    f"--resume_from_checkpoint {folder}: it is of another model; {len(odd)} of the {name}'s weights"
                    f" differ in name or shape, {odd[0]} among them"
                )
            for key, value in own.items():
                value.set_value(weights[key])
        return Reader(folder / OPTIMIZER)
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(f"--resume_from_checkpoint {folder}: it can't be read ({error})") from None


def differences(recorded, current):
    """What of the run's course differs from the checkpoint's, as lines."""

    def shown(value):
        return f"{len(value)} files" if isinstance(value, list) else repr(value)

    return [
        f"{name}: {shown(recorded.get(name))} then, {shown(current.get(name))} now"
        for name in sorted(recorded.keys() | current.keys())
        if recorded.get(name) != current.get(name)
    ]


def prune(output_dir, limit):
    """Delete the oldest checkpoints above the limit; called when the new one is complete."""
    if limit is not None:
        for folder, _ in survey(output_dir)[0][:-limit]:
            atomic.remove_folder(folder)
