"""The output folder: whose it is, the result in it, and the record of how that was made."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dreambooth.files import atomic, embeddings, lora, moves, records
from dreambooth.models import loading, pipeline_folder
from dreambooth.run import checkpoints, tracking
from dreambooth.run.report import progress
from dreambooth.system import disk, libraries, processes
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dreambooth.config.config import Result
    from dreambooth.config.run_sections import SavingSettings
    from dreambooth.data.concepts import Concept
    from dreambooth.files.records import Record
    from dreambooth.models.family.base import Family
    from dreambooth.run.checkpoints import Checkpoint
    from dreambooth.system.types import Size

_CARD = "README.md"
SAMPLES = "samples"
OF_CLASS = "class-"  # before the names of samples that show the class
CURVES = "validation.png"  # of the measures on the way
REPORT = "report.html"
_TRIES = 10  # to lock the folder, a fifth of a second apart
_LAST = (*lora.NAMES.values(), moves.INDEX)  # the files by which a folder loads, in the order in which they arrive


def check(folder: Path, others: Sequence[tuple[str, Path]], replaces_pipeline: bool) -> None:
    """Refuse a folder that cannot be written, or that holds something else than an earlier run.

    `others` are the run's other folders, with their flags. `replaces_pipeline` is whether the result takes the place
    of a whole pipeline there. Leftovers of killed processes are removed.
    """
    for flag, path in [("--output_dir", folder), *others]:
        # all class pictures may be there, in a folder that can only be read
        if not (flag == "--class_data_dir" and path.is_dir()) and not disk.can_be_written(path):
            raise BadInput(f"{flag} {path}: it is no folder that can be written")
    if not folder.is_dir():
        return
    moves.finish_move(folder)
    if not replaces_pipeline and (folder / moves.INDEX).exists():
        raise BadInput(
            f"--output_dir {folder}: it holds a whole pipeline, which a LoRA alone would not replace; give a new"
            " folder, or --overwrite"
        )
    if not _is_ours(folder):
        # a run that came no further made these
        begun = {SAMPLES, CURVES, REPORT, progress.FILE}
        for _, path in others:
            if path.resolve().is_relative_to(folder.resolve()):
                begun.update(path.resolve().relative_to(folder.resolve()).parts[:1])
        names = (each.name for each in folder.iterdir())
        foreign = sorted(name for name in names if not name.startswith(".") and name not in begun)
        if foreign:
            raise BadInput(
                f"--output_dir {folder}: it holds something else than an earlier run ({', '.join(foreign[:3])});"
                " give a new or empty folder"
            )
    atomic.clean(folder)


def changes_to_earlier(folder: Path, flags: Mapping[str, Any], concepts: Sequence[Concept]) -> list[str]:
    """List, as text, by what a run is another one than that whose result or checkpoint is in the folder.

    The subjects, the base model and the method make a run.
    """
    record = _earlier_record(folder)
    if record is None:
        return []
    try:
        earlier = dict(record["flags"])
        pictures = sorted(each["sha256"] for concept in record["concepts"] for each in concept["pictures"])
        prompts = ", ".join(repr(concept["prompt"]) for concept in record["concepts"])
    except (KeyError, TypeError, ValueError):  # somebody edited it
        return []

    def method(of: Mapping[str, Any]) -> str:
        network = "a LoRA" if of.get("lora_rank") else "the whole network"
        return "a word alone" if of.get("learn_identifier") == "alone" else network

    pairs = {
        "instance_prompt": (prompts, ", ".join(repr(concept.prompt) for concept in concepts)),
        "base model": _base_models(record, str(flags["pretrained_model_name_or_path"])),
        "method": (method(earlier), method(flags)),
    }
    changes = [f"{name}: {then} then, {now} now" for name, (then, now) in pairs.items() if then != now]
    hashes = [picture.sha256 for concept in concepts for picture in concept.pictures]
    if pictures != sorted(hashes):
        new = len(set(hashes) - set(pictures))
        changes.append(f"pictures: {len(pictures)} then, {len(hashes)} now, {new} of them others")
    return changes


def _base_models(record: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Return the base model of a record and that of this name, as texts that are the same for the same model.

    A folder may have been moved, or its weights replaced; earlier versions recorded the name alone.
    """
    then = str(record.get("base_folder") or record.get("base_model"))
    if not Path(name).is_dir():
        return then, name
    now, weights = str(Path(name).resolve()), record.get("base_weights")
    if not isinstance(weights, str) or not record.get("base_folder"):
        return str(Path(then).resolve()) if Path(then).is_dir() else then, now
    return (now if pipeline_folder.fingerprint(name, weights) == weights else f"{then} (with other weights)"), now


def _earlier_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of the result in a folder, or else of its newest checkpoint."""
    if record := records.read_result(folder):
        return record
    whole, _ = checkpoints.scan(folder)
    return whole[-1].state.get("arguments") if whole else None


@contextlib.contextmanager
def claimed(output_dir: str, is_needed: bool = True) -> Iterator[None]:
    """Keep the folder to this run while the block lasts; another run that has it is a BadInput.

    The first process holds the lock for all. The kernel frees it when that process ends, however that is. A file system
    without locks has none. A folder that was made for a block that fails is removed, unless something is in it.
    """
    if not is_needed or not processes.is_first():
        yield
        return
    folder = Path(output_dir)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    descriptor = _locked(folder)
    if descriptor is None:
        raise BadInput(f"--output_dir {folder}: another run writes into it; wait for its end, or give another folder")
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for each in made:
                each.rmdir()
        raise
    finally:
        os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """Make and lock a folder; the workers of a killed run may hold its lock for a moment. None where it is taken."""
    for _ in range(_TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        # the run that had the lock may have removed the folder, which it had made, in the meantime
        if atomic.try_lock(descriptor) and folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
        os.close(descriptor)
        time.sleep(0.2)
    return None


def clear(output_dir: str, log_folder: Path) -> None:
    """Remove what another run wrote: checkpoints, pictures and logs, and nothing else that lies there.

    Its result goes when the new one arrives.
    """
    with processes.together():
        if processes.is_first():
            for path in _leftovers(Path(output_dir), log_folder):
                atomic.remove(path)
            with contextlib.suppress(OSError):  # unless it has files of the user's
                (Path(output_dir) / SAMPLES).rmdir()


def _leftovers(folder: Path, log_folder: Path) -> list[Path]:
    """List the checkpoints, the pictures and the logs of a run."""
    drawn = [path for kind in ("", OF_CLASS) for path in (folder / SAMPLES).glob(f"{kind}step-*.png")]
    names = (CURVES, REPORT, progress.FILE, f"{SAMPLES}/measured", f"{SAMPLES}/subject")
    others = [folder / name for name in names if (folder / name).exists()]
    logs = tracking.files_in(log_folder) if log_folder.resolve().is_relative_to(folder.resolve()) else []
    return [*checkpoints.folders(folder), *drawn, *others, *logs]


def check_inputs(folder: Path, log_folder: Path, inputs: Sequence[tuple[str, str]]) -> None:
    """Refuse an input folder, named by its flag, that lies in or below something that `clear` removes."""
    doomed = [each.resolve() for each in _leftovers(folder, log_folder)]
    for flag, path in inputs:
        if Path(path).is_dir():
            own = [each.resolve() for each in (Path(path), *Path(path).iterdir())]
            if any(each.is_relative_to(gone) for each in own for gone in doomed):
                raise BadInput(f"{flag} {path}: it has files of the run that --overwrite removes; move it away first")


def _is_ours(folder: Path) -> bool:
    """Check whether an earlier run wrote into this folder: its record or a whole checkpoint is there."""
    return bool(records.read_result(folder) or checkpoints.scan(folder)[0])


def make_record(
    flags: dict[str, Any],
    steps: int,
    processes: int,
    machine: dict[str, Any],
    concepts: Iterable[Concept],
    base_weights: str,
    index: dict[str, Any],
    sizes: Sequence[Size] = (),
) -> Record:
    """Record the settings and pictures from which the result can be made again.

    There is no flag for a token, so none can get in here. `base_weights` is the fingerprint of the base model,
    `index` names the classes of its parts, and `sizes` are those of pictures in buckets.
    """
    name = str(flags["pretrained_model_name_or_path"])
    base = Path(name)
    return {
        "flags": flags,
        "base_model": name,
        "base_folder": str(base.resolve()) if base.is_dir() else None,
        "base_weights": base_weights,
        "base_index": index,
        "sizes": [list(size) for size in sizes],
        "steps": steps,
        "processes": processes,
        "machine": machine,
        "concepts": [
            {
                "prompt": concept.prompt,
                "pictures": [each.record for each in concept.pictures],
                "class_prompt": concept.class_prompt,
                "class_pictures": [each.record for each in concept.class_pictures],
            }
            for concept in concepts
        ],
        "versions": {"python": sys.version.split()[0], **libraries.versions()},
    }


def save_result(family: Family, saving: SavingSettings, result: Result, record: Record, card: str) -> None:
    """Write the pipeline, the LoRA or the word, with its card and record, in place of an earlier result.

    The first process writes while the others wait.
    """
    with processes.together():
        if processes.is_first():
            _save_result(family, saving, result, record, card)


def _save_result(family: Family, saving: SavingSettings, result: Result, record: Record, card: str) -> None:
    folder, words = Path(saving.output_dir), family.words.vectors() if family.words else {}
    form: Literal["diffusers", "paddle"] = "diffusers" if saving.save_format == "diffusers" else "paddle"
    last = [*embeddings.file_names(words).values(), *(each.name for each in embeddings.files_in(folder)), *_LAST]
    with moves.whole_parts(
        folder, list(dict.fromkeys(last)), _parts_of(folder), f"the {result} in {folder}"
    ) as temporary:
        embeddings.write(temporary, words, family.words.widths if family.words else ())
        if family.adapters:
            matrices, facts = family.adapters.matrices(), family.facts
            lora.write(temporary / lora.NAMES[form], matrices, form, facts.lora_prefixes, facts.text_encoders)
            if result == "pipeline":
                family.adapters.detach()
                family = loading.reload_halves(family)
                loading.merge(family.learners(), matrices)
        if result == "pipeline":
            loading.put_words(family, words)
            libraries.release_memory()  # the freed parts are loaded again, beside the optimizer's state
            family.save(temporary, saving.save_format)
        atomic.write_json(temporary / records.RESULT, record)
        _make_newest(temporary / records.RESULT, folder)
        atomic.write_text(temporary / _CARD, card)


def _make_newest(record: Path, folder: Path) -> None:
    """Let a record be newer than every checkpoint in a folder, also where the clock has been set back."""
    times = [record.stat().st_mtime_ns, *(1 + each.state["written_ns"] for each in checkpoints.scan(folder)[0])]
    os.utime(record, ns=(max(times), max(times)))


def lacks_result(folder: Path, checkpoint: Checkpoint) -> bool:
    """Check whether a checkpoint is newer than the result in the folder, as after a full disk at the end of a run."""
    record = folder / records.RESULT
    return not record.exists() or record.stat().st_mtime_ns < checkpoint.state["written_ns"]


def _parts_of(folder: Path) -> list[str]:
    """List the names of what belongs to the pipeline in a folder."""
    try:
        index = atomic.read_json(folder / moves.INDEX)
        return [name for name in index if isinstance(index[name], list) and name == Path(name).name]
    except (OSError, ValueError, TypeError):
        return []
