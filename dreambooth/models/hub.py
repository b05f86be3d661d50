"""Where a model of a name is: in a folder, in a cache, in Paddle's store, at Hugging Face. The libraries fetch it."""

import contextlib
import functools
import os
from pathlib import Path

from dreambooth.models import layouts, pipeline_folder
from dreambooth.system.errors import BadInput

TEXT_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "preprocessor_config.json",
)
YES = ("1", "true", "t", "yes", "y", "on")


def is_set(variable):
    return os.environ.get(variable, "").strip().lower() in YES


def find_model(name, revision=None, flag=pipeline_folder.FLAG):
    """The folder of a model. What is here already is taken from here; what is not is looked for in Paddle's store and
    at Hugging Face.

    FROM_HF_HUB asks for Hugging Face alone, HF_HUB_OFFLINE for what is here alone.
    """
    return str(name) if Path(name).is_dir() else _find_model(name, revision, flag)


@functools.cache
def _find_model(name, revision, flag):
    kept = _cache() / name
    if revision is None and not is_set("FROM_HF_HUB") and _is_whole(kept):
        return str(kept)
    reasons = []
    for ask in (_paddle_store, _hugging_face):
        if ask is _paddle_store and (is_set("FROM_HF_HUB") or is_set("HF_HUB_OFFLINE")):
            continue
        try:
            return str(ask(name, revision))
        except BadInput:
            raise
        except Exception as error:  # whatever a library raises, the next place is asked, and in the end all is told
            reasons.append(_reason(ask, error))
    offline = " (HF_HUB_OFFLINE is set, so nothing was fetched)" if is_set("HF_HUB_OFFLINE") else ""
    raise BadInput(
        f"{flag} {name}: there is no such folder here, and it could not be fetched{offline}: {'; '.join(reasons)}."
        " Check the name, give a local folder, or see README.md on where models come from"
    )


def _cache():
    """Where the library keeps what it fetched from Paddle's store."""
    from ppdiffusers.utils import PPDIFFUSERS_CACHE

    return Path(PPDIFFUSERS_CACHE)


def _is_whole(folder):
    if not folder.is_dir():
        return False
    try:
        pipeline_folder.check(str(folder))
    except BadInput:
        return False
    return True


def _paddle_store(name, revision):
    """Fetch a pipeline into the library's cache. The store tells no list of its files, so each is asked for."""
    from ppdiffusers.utils import bos_aistudio_hf_download as download

    def fetched(part, *files):
        """The first of some files that is there."""
        for file in files:
            try:
                return Path(download(name, file, subfolder=part, cache_dir=str(_cache()), revision=revision))
            except OSError as error:
                missing = error
        raise missing

    index = fetched("", "model_index.json")
    facts = pipeline_folder.check_index(name, pipeline_folder.read_index(index.parent))
    for part in (*facts.parts, *facts.optional_parts):
        if part == "scheduler":
            fetched(part, "scheduler_config.json")
        elif part in facts.without_weights or part in facts.optional_parts:
            for file in TEXT_FILES:
                with contextlib.suppress(OSError):
                    fetched(part, file)
        else:
            fetched(part, layouts.CONFIG, layouts.OLD_CONFIG)
            fetched(part, *layouts.PADDLE, layouts.EITHER)
    return index.parent


def _hugging_face(name, revision):
    """Fetch a repository's best weights and small files into Hugging Face's own cache, or find them there."""
    import requests
    from huggingface_hub import HfApi, snapshot_download

    if is_set("HF_HUB_OFFLINE"):
        return snapshot_download(name, revision=revision, local_files_only=True)
    try:
        files = HfApi().list_repo_files(name, revision=revision)
    except (requests.ConnectionError, requests.Timeout):  # but the cache may hold it
        return snapshot_download(name, revision=revision, local_files_only=True)
    return snapshot_download(name, revision=revision, allow_patterns=layouts.worth_fetching(files))


def _reason(place, error):
    """One short clause for what a library says in a paragraph."""
    if place is _paddle_store:
        address = os.environ.get("PPNLP_ENDPOINT", "https://bj.bcebos.com/paddlenlp")
        return f"Paddle's store ({address}) does not answer or does not have it"
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    kind = type(error).__name__
    if kind == "GatedRepoError":
        what = "asks for an account that accepted its licence: set HF_TOKEN, or run huggingface-cli login"
    elif kind == "RepositoryNotFoundError":
        what = "has no such repository, or a private one: then set HF_TOKEN"
    elif kind == "RevisionNotFoundError":
        what = "has no such revision"
    elif kind == "HFValidationError":
        what = "takes it for no name"
    elif kind == "LocalEntryNotFoundError":
        what = "does not answer, and its cache does not hold it"
    else:
        what = f"says {' '.join(str(error).split())[:200] or kind}"
    return f"Hugging Face ({address}) {what}"
