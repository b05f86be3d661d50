"""The way to the hub: names, addresses, and which faults are tried again. tests/commands/test_push.py sends."""

import pytest
import requests

from dreambooth.run.sharing import upload
from dreambooth.system.errors import BadInput, Stopped


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(upload, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("HF_ENDPOINT", "https://bob:secret@hub.example/?x=1")


def answer(status):
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("refused", response=response)


@pytest.mark.parametrize(
    ("error", "tries"),
    [(answer(401), 1), (answer(403), 1), (answer(413), 1), (answer(409), 3), (answer(503), 3), (answer(429), 3),
     (requests.ConnectionError(), 3), (requests.Timeout(), 3), (RuntimeError("odd"), 1)],
    ids=str,
)  # fmt: skip
def test_a_fault_that_may_pass_is_tried_again(error, tries):
    calls = []

    def fail():
        calls.append(1)
        raise error

    with pytest.raises(Stopped) as stopped:
        upload._tried(fail, "a/b")
    assert len(calls) == tries and "a/b" in str(stopped.value) and "secret" not in str(stopped.value)


def test_what_succeeds_at_last_is_returned():
    errors = [answer(500), requests.ConnectionError()]

    def act():
        if errors:
            raise errors.pop()
        return "done"

    assert upload._tried(act, "a/b") == "done"


def test_the_address_has_no_password():
    assert upload.address() == "https://hub.example"


def test_a_name_and_a_token_are_needed(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    upload.check("somebody/sks-dog")
    for name in ("dog", "a/b/c", "a b/c", "../x", "-/-"):
        with pytest.raises(BadInput, match="--name"):
            upload.check(name)
