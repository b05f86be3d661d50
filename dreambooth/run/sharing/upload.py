"""The way to the hub: one commit, which is there as a whole or not at all."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from dreambooth.models import hub
from dreambooth.system import console
from dreambooth.system.errors import BadInput, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from huggingface_hub import CommitOperationAdd, HfApi

    from dreambooth.run.sharing.bundle import Entry

    _Result = TypeVar("_Result")

PAUSES = (1.0, 3.0, 9.0)  # seconds before the tries after the first
_AGAIN = (408, 409, 429)  # the states that pass; 409 is another commit at the same moment
_SERVER_ERROR = 500
_TOKEN = "set HF_TOKEN to one that may write, or run huggingface-cli login"
_REASONS = {
    401: f"it does not accept the token: {_TOKEN}",
    403: f"the token may not write there: {_TOKEN}",
    404: "there is no such user or organization, or the token may not see it",
    409: "somebody else writes there at the same time; try again",
    413: "a file is larger than it takes",
    429: "it has had too many requests; try again later",
}


def check(name: str) -> None:
    """Refuse a name that is none, and a user without a token, before anything is read."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise BadInput(f"--name {name}: the hub does not accept it; give USER/NAME") from None
    if name.count("/") != 1:
        raise BadInput(f"--name {name}: give USER/NAME")
    if hub.is_set("HF_HUB_OFFLINE"):
        raise BadInput("--to hub: HF_HUB_OFFLINE is set; unset it")
    if not get_token():
        raise BadInput(f"--to hub: there is no token; {_TOKEN}")


def send(entries: Sequence[Entry], name: str, is_public: bool, message: str) -> str:
    """Send all files in one commit, and return the address of the repository.

    Large files go first, one by one; those that the hub has already are not sent again. What fails for a moment is
    tried again.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity_error()  # it would report each of its own tries
    api = HfApi()
    _tried(lambda: api.create_repo(name, private=not is_public, exist_ok=True), name)
    operations = [CommitOperationAdd(entry.name, _readable(entry)) for entry in entries]
    total = sum(entry.size for entry in entries)
    with console.progress_bar(total=total, desc="Sending", unit="B", unit_scale=True) as bar:
        for entry, operation in zip(entries, operations):
            _preupload(api, name, operation)
            bar.update(entry.size)
        _tried(lambda: api.create_commit(name, operations, commit_message=message), name)
    return f"{address()}/{name}"


def _readable(entry: Entry) -> str | bytes:
    return entry.content if isinstance(entry.content, bytes) else str(entry.content)


def _preupload(api: HfApi, name: str, operation: CommitOperationAdd) -> None:
    # the content of a small file goes with the commit, so it must stay
    _tried(lambda: api.preupload_lfs_files(name, [operation], free_memory=False), name)


def _tried(act: Callable[[], _Result], name: str) -> _Result:
    """Call a function that asks the hub, again where the fault may pass; what stays is one line."""
    import requests

    for pause in (*PAUSES, None):
        try:
            return act()
        except (requests.RequestException, RuntimeError, ValueError) as error:
            cause = _cause(error)
            status = getattr(getattr(cause, "response", None), "status_code", None)
            passes = status is None and isinstance(cause, (requests.ConnectionError, requests.Timeout))
            passes = (passes or (status or 0) >= _SERVER_ERROR) and cause is error  # else the library has tried again
            passes = passes or status in _AGAIN
            if pause is not None and passes:
                console.print_above_bar(f"the hub answers with {status or 'nothing'}; trying again in {pause:g} s")
                time.sleep(pause)
                continue
            raise Stopped(f"--name {name}: Hugging Face ({address()}): {_reason(cause, status)}", code=1) from error
    raise AssertionError("the last try returns or raises")


def _cause(error: BaseException) -> BaseException:
    """Return the fault of the network behind an error: the library wraps that of a large file in its own."""
    import requests

    found: BaseException | None = error
    while found is not None and not isinstance(found, requests.RequestException):
        found = found.__cause__ or found.__context__
    return found or error


def _reason(error: BaseException, status: int | None) -> str:
    if status in _REASONS:
        return _REASONS[status]
    if status is not None and status >= _SERVER_ERROR:
        return f"it answers with {status}; try again later"
    if status is None and not isinstance(error, (RuntimeError, ValueError)):
        return "the connection was cut, or it does not answer; the repository is as it was. Try again"
    return console.without_secrets(" ".join(str(error).split())[:200])


def address() -> str:
    """Return the hub's address, without a user's name or password."""
    found = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    return found._replace(netloc=found.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")
