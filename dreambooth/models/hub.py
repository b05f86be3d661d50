"""Models by name: find them in a local cache, or let the libraries fetch them from Paddle's store or Hugging Face."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dreambooth.files import atomic, moves
from dreambooth.models import layouts, pipeline_folder
from dreambooth.system import console, disk, processes
from dreambooth.system.errors import BadInput
from dreambooth.system.patches import storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from requests import Response

_TEXT_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "preprocessor_config.json",
)
_YES = ("1", "true", "t", "yes", "y", "on")
_CHUNK = 1 << 20  # bytes
_SECONDS_FOR_ANSWER = 30
_SERVER_ERROR = 500


def find_model(name: str | Path, revision: str | None = None, flag: str = pipeline_folder.FLAG) -> str:
    """Return the folder of a model, after fetching it if it is in no cache.

    FROM_HF_HUB leaves Hugging Face as the only source, HF_HUB_OFFLINE the caches. Raises BadInput if no source has it.
    """
    return str(name) if Path(name).is_dir() else _find_named(str(name), revision, flag)


@functools.cache
def _find_named(name: str, revision: str | None, flag: str) -> str:
    kept = _cache() / name
    if revision is None and not is_set("FROM_HF_HUB") and _is_whole(kept):
        return str(kept)
    reasons = []
    if not is_set("FROM_HF_HUB") and not is_set("HF_HUB_OFFLINE"):
        try:
            return str(_fetch_from_paddle(name, revision))
        except BadInput:
            raise
        except Exception as error:  # a library may raise anything; the next source follows
            _check_disk(name, error)
            reasons.append(_explain_paddle(error))
    try:
        return _fetch_from_hugging_face(name, revision)
    except Exception as error:
        _check_disk(name, error)
        reasons.append(_explain_hugging_face(error))
    offline = " (HF_HUB_OFFLINE is set, so nothing was fetched)" if is_set("HF_HUB_OFFLINE") else ""
    raise BadInput(
        f"{flag} {name}: there is no such folder here, and it could not be fetched{offline}: {'; '.join(reasons)}."
        " Check the name, give a local folder, or see docs/models.md on where models come from"
    )


def is_name(name: str) -> bool:
    """Check whether a text is the name of a model, and not that of a folder."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).parent.is_dir()


def check_place(name: str, flag: str) -> None:
    """Refuse what is neither a folder nor a name on the hub."""
    if not is_name(name) and not Path(name).is_dir():
        raise BadInput(f"{flag} {name}: there is no such folder; a name on the hub is OWNER/MODEL")


def find_files(name: str, patterns: Sequence[str], flag: str) -> Path:
    """Return the folder of some files of a repository of Hugging Face, after fetching them where they are not here."""
    from huggingface_hub import snapshot_download

    try:
        offline = is_set("HF_HUB_OFFLINE")
        with storage.checked_downloads(console.without_secrets):
            return Path(snapshot_download(name, allow_patterns=list(patterns), local_files_only=offline))
    except Exception as error:  # the library may raise anything
        _check_disk(name, error)
        reason = _explain_hugging_face(error)
        raise BadInput(f"{flag} {name}: there is no such folder here, and it could not be fetched: {reason}") from None


def find_network(name: str, flag: str) -> Path:
    """Return the folder of a repository that is one network, after fetching its settings and its best weights."""
    from huggingface_hub import HfApi

    chosen: list[str] = []
    if not is_set("HF_HUB_OFFLINE"):
        with contextlib.suppress(Exception):  # the library may raise anything; the download then says what is wrong
            chosen = layouts.of_network(HfApi().list_repo_files(name))
    return find_files(name, chosen or (layouts.CONFIG, *layouts.PADDLE, *layouts.TORCH), flag)


def _check_disk(name: str, error: Exception) -> None:
    """Raise DiskFull where that was what stopped a download."""
    if reason := disk.reason(error):
        raise disk.DiskFull(
            f"the download of {name}",
            whole="make room, or set HF_HOME or PPNLP_HOME to a folder with more",
            reason=reason,
        ) from error


def is_set(variable: str, default: str = "") -> bool:
    """Check whether a variable of the environment says yes, in the words that the libraries take for it."""
    return os.environ.get(variable, default).strip().lower() in _YES


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
    from ppdiffusers.utils.download_utils import ppdiffusers_bos_url as address_of

    folder = _cache() / (name if revision is None else f"{name}@{revision.replace('/', '-')}")

    def fetch_first(part: str, *files: str) -> Path:
        """Fetch the first of some files that exists."""
        for file in files:
            path = folder / part / file
            if path.is_file() or _fetch_whole(address_of(name, file, subfolder=part, revision=revision), path):
                return path
        raise FileNotFoundError(f"{part}/{files[0]}".lstrip("/"))

    index = fetch_first("", moves.INDEX)
    facts = pipeline_folder.check_index(name, pipeline_folder.read_index(index.parent))
    for part in (*facts.parts, *facts.optional_parts):
        if part in facts.schedulers:
            fetch_first(part, "scheduler_config.json")
        elif part in facts.without_weights or part in facts.optional_parts:
            for file in _TEXT_FILES:
                with contextlib.suppress(FileNotFoundError):
                    fetch_first(part, file)
        else:
            fetch_first(part, layouts.CONFIG, layouts.OLD_CONFIG)
            fetch_first(part, *layouts.PADDLE)
    return index.parent


def _fetch_whole(address: str, path: Path) -> bool:
    """Fetch a file of Paddle's store; False where it has none.

    The library's own function takes a file that was cut short for a whole one, and leaves a failed one in the cache.
    """
    import requests
    from tqdm import tqdm

    headers = {"Accept-Encoding": "identity"}  # else the length is that of the compressed bytes
    with requests.get(address, headers=headers, stream=True, timeout=_SECONDS_FOR_ANSWER) as answer:
        if answer.status_code in (requests.codes.not_found, requests.codes.forbidden):
            return False
        answer.raise_for_status()
        is_plain = "Content-Encoding" not in answer.headers
        size = int(answer.headers.get("Content-Length", 0)) or None if is_plain else None
        expected = _md5_of(answer)
        digest = hashlib.md5(usedforsecurity=False)
        bar = tqdm(
            desc=path.name, total=size, unit="B", unit_scale=True, disable=None if processes.is_first() else True
        )
        with atomic.whole_file(path, size or 0) as temporary, temporary.open("wb") as file, bar:
            for chunk in answer.iter_content(_CHUNK):
                digest.update(chunk)
                bar.update(file.write(chunk))
            if size not in (None, file.tell()):
                raise OSError(f"{path.name} has {file.tell()} bytes instead of {size}")
            if expected not in (None, digest.hexdigest()):
                raise OSError(f"{path.name} is damaged: its hash is not the one that the store names")
    return True


def _md5_of(answer: Response) -> str | None:
    """Return the MD5 by which Paddle's store names a file; None for one in parts, and from another server."""
    tag = answer.headers.get("ETag", "").strip('"')
    is_of_store = any(name.lower().startswith("x-bce-") for name in answer.headers)
    return tag if is_of_store and re.fullmatch("[0-9a-f]{32}", tag) else None


def _fetch_from_hugging_face(name: str, revision: str | None) -> str:
    """Fetch a repository's best weights and small files into Hugging Face's cache, or find them there."""
    import requests
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import LocalEntryNotFoundError

    if is_set("HF_HUB_OFFLINE"):
        return snapshot_download(name, revision=revision, local_files_only=True)
    try:
        files = HfApi().list_repo_files(name, revision=revision)
    except (requests.ConnectionError, requests.Timeout, requests.HTTPError) as error:  # but the cache may have it
        status = _status_of(error)
        if status is not None and status < _SERVER_ERROR:
            raise
        try:
            return snapshot_download(name, revision=revision, local_files_only=True)
        except LocalEntryNotFoundError:
            if status is not None:
                raise error from None
            raise
    with storage.checked_downloads(console.without_secrets):
        return snapshot_download(name, revision=revision, allow_patterns=layouts.worth_fetching(files))


def _shown(variable: str, default: str) -> str:
    """Return the address of a source without user, password and query."""
    address = urlsplit(os.environ.get(variable) or default)
    return address._replace(netloc=address.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _explain_paddle(error: Exception) -> str:
    """Return one short clause for an error of Paddle's store."""
    source = f"Paddle's store ({_shown('PPNLP_ENDPOINT', 'https://bj.bcebos.com/paddlenlp')})"
    if isinstance(error, FileNotFoundError):
        return f"{source} does not have it (no {error})"
    if type(error) is OSError:  # of `_fetch_whole`
        return f"{source} sent a file that can't be used: {error}"
    status = _status_of(error)
    return f"{source} answers with {status}" if status else f"{source} does not answer"


def _status_of(error: Exception) -> int | None:
    """Return the status of the answer that an error is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _explain_hugging_face(error: Exception) -> str:
    """Return one short clause for an error of huggingface_hub, which is a paragraph."""
    address = _shown("HF_ENDPOINT", "https://huggingface.co")
    status = _status_of(error)
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
    elif status is not None and status >= _SERVER_ERROR:
        clause = f"answers with {status}: try again later"
    else:
        clause = f"reports {' '.join(str(error).split())[:200] or kind}"
    return f"Hugging Face ({address}) {clause}"
