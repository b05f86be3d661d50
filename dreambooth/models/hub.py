"""Models by name: find them in a local cache, or let the libraries fetch them from Paddle's store or Hugging Face."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

from dreambooth.files import moves
from dreambooth.models import layouts, pipeline_folder
from dreambooth.system import disk
from dreambooth.system.errors import BadInput

_TEXT_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "preprocessor_config.json",
)
_YES = ("1", "true", "t", "yes", "y", "on")


def find_model(name: str | Path, revision: str | None = None, flag: str = pipeline_folder.FLAG) -> str:
    """Return the folder of a model, after fetching it if it is in no cache.

    FROM_HF_HUB leaves Hugging Face as the only source, HF_HUB_OFFLINE the caches. Raises BadInput if no source has it.
    """
    return str(name) if Path(name).is_dir() else _find_named(str(name), revision, flag)


@functools.cache
def _find_named(name: str, revision: str | None, flag: str) -> str:
    kept = _cache() / name
    if revision is None and not _is_set("FROM_HF_HUB") and _is_whole(kept):
        return str(kept)
    reasons = []
    if not _is_set("FROM_HF_HUB") and not _is_set("HF_HUB_OFFLINE"):
        try:
            return str(_fetch_from_paddle(name, revision))
        except BadInput:
            raise
        except Exception as error:  # a library may raise anything; the next source follows
            _check_disk(name, error)
            reasons.append(_explain_paddle())
    try:
        return _fetch_from_hugging_face(name, revision)
    except Exception as error:
        _check_disk(name, error)
        reasons.append(_explain_hugging_face(error))
    offline = " (HF_HUB_OFFLINE is set, so nothing was fetched)" if _is_set("HF_HUB_OFFLINE") else ""
    raise BadInput(
        f"{flag} {name}: there is no such folder here, and it could not be fetched{offline}: {'; '.join(reasons)}."
        " Check the name, give a local folder, or see docs/models.md on where models come from"
    )


def _check_disk(name: str, error: Exception) -> None:
    """Raise DiskFull where that was what stopped a download."""
    if reason := disk.reason(error):
        raise disk.DiskFull(
            f"the download of {name}",
            whole="make room, or set HF_HOME or PPNLP_HOME to a folder with more",
            reason=reason,
        ) from error


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in _YES


def _cache() -> Path:
    """Return the folder in which PPDiffusers keeps models of Paddle's store."""
    from ppdiffusers.utils import PPDIFFUSERS_CACHE

    return Path(PPDIFFUSERS_CACHE)


def _is_whole(folder: Path) -> bool:
    """Check whether a folder is a complete pipeline."""
    if not folder.is_dir():
        return False
    try:
        pipeline_folder.check(str(folder))
    except BadInput:
        return False
    return True


def _fetch_from_paddle(name: str, revision: str | None) -> Path:
    """Fetch a pipeline into the library's cache, file by file, since the store has no list of a model's files."""
    from ppdiffusers.utils import bos_aistudio_hf_download as download

    def fetch_first(part: str, *files: str) -> Path:
        """Fetch the first of some files that exists."""
        missing = OSError(f"{name} has no file for {part}")
        for file in files:
            try:
                return Path(download(name, file, subfolder=part, cache_dir=str(_cache()), revision=revision))
            except OSError as error:
                missing = error
        raise missing

    index = fetch_first("", moves.INDEX)
    facts = pipeline_folder.check_index(name, pipeline_folder.read_index(index.parent))
    for part in (*facts.parts, *facts.optional_parts):
        if part == "scheduler":
            fetch_first(part, "scheduler_config.json")
        elif part in facts.without_weights or part in facts.optional_parts:
            for file in _TEXT_FILES:
                with contextlib.suppress(OSError):
                    fetch_first(part, file)
        else:
            fetch_first(part, layouts.CONFIG, layouts.OLD_CONFIG)
            fetch_first(part, *layouts.PADDLE)
    return index.parent


def _fetch_from_hugging_face(name: str, revision: str | None) -> str:
    """Fetch a repository's best weights and small files into Hugging Face's cache, or find them there."""
    import requests
    from huggingface_hub import HfApi, snapshot_download

    if _is_set("HF_HUB_OFFLINE"):
        return snapshot_download(name, revision=revision, local_files_only=True)
    try:
        files = HfApi().list_repo_files(name, revision=revision)
    except (requests.ConnectionError, requests.Timeout):  # but the cache may have it
        return snapshot_download(name, revision=revision, local_files_only=True)
    return snapshot_download(name, revision=revision, allow_patterns=layouts.worth_fetching(files))


def _explain_paddle() -> str:
    address = os.environ.get("PPNLP_ENDPOINT", "https://bj.bcebos.com/paddlenlp")
    return f"Paddle's store ({address}) does not answer or does not have it"


def _explain_hugging_face(error: Exception) -> str:
    """Return one short clause for an error of huggingface_hub, which is a paragraph."""
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    kind = type(error).__name__
    if kind == "GatedRepoError":
        clause = "requires an account that accepted its licence: set HF_TOKEN, or run huggingface-cli login"
    elif kind == "RepositoryNotFoundError":
        clause = "has no such repository, or a private one: then set HF_TOKEN"
    elif kind == "RevisionNotFoundError":
        clause = "has no such revision"
    elif kind == "HFValidationError":
        clause = "does not accept the name"
    elif kind == "LocalEntryNotFoundError":
        clause = "does not answer, and its cache does not have it"
    else:
        clause = f"reports {' '.join(str(error).split())[:200] or kind}"
    return f"Hugging Face ({address}) {clause}"
