"""A hub at fault: one line, no half file in a cache, no password or token in any output."""

import re

import pytest
from support.faults import contents, one_line
from support.hubs import NAME, look

pytestmark = pytest.mark.slow

USER, PASSWORD, TOKEN, SIGNATURE = "a-user", "a-password", "hf_" + "t0k3n" * 7, "a-signature"
ONLY = {"hf": dict(FROM_HF_HUB="1"), "paddle": {}}


def refused(done, *said):
    """The command ended with one line, which says this, and with no secret."""
    assert done.returncode == 2, done.stderr
    for secret in (USER, PASSWORD, TOKEN, SIGNATURE):
        assert secret not in done.stdout + done.stderr
    line = one_line(done.stderr)
    rest = [each for each in re.split(r"[\r\n]+", done.stderr) if each and not each.startswith("Fetching")]
    assert rest == [line]
    for each in said:
        assert re.search(each, line), line
    return line


def is_clean(tmp_path, model):
    """All files in the caches are whole ones of the model, or marked as unfinished by the library that goes on."""
    whole = set(contents(model).values())
    for cache in ("paddle", "huggingface"):
        for path in (tmp_path / cache).rglob("*") if (tmp_path / cache).is_dir() else ():
            is_note = path.suffix in (".incomplete", ".lock") or ".no_exist" in path.parts or path.parent.name == "refs"
            if path.is_file() and not is_note and not path.name.startswith("version"):
                assert path.read_bytes() in whole, path


def answers(status, headers=None, only=""):
    def fault(handler, path, body):
        if only not in path:
            return False
        handler.reply(status, b"", body, headers)
        return True

    return fault


def is_weights(path):
    return path.endswith(".safetensors") and "unet" in path


def half(handler, path, body):
    """The connection ends in the middle of a file."""
    if not is_weights(path) or not body:
        return False
    file = (handler.hub if handler.path.startswith(f"/{NAME}") else handler.store) / "/".join(path.split("/")[-2:])
    data = file.read_bytes()
    handler.send_response(200)
    for name, value in {"X-Repo-Commit": "1" * 40, "Content-Length": len(data), **handler.named(file)}.items():
        handler.send_header(name, str(value))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.close_connection = True
    return True


def other_bytes(handler, path, body):
    """One byte of the file is another one."""
    if not is_weights(path):
        return False
    file = (handler.hub if handler.path.startswith(f"/{NAME}") else handler.store) / "/".join(path.split("/")[-2:])
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    handler.reply(200, bytes(data), body, handler.named(file))
    return True


@pytest.mark.parametrize(
    "status, headers, said",
    [
        (401, {"X-Error-Code": "RepoNotFound"}, "a private one: then set HF_TOKEN"),
        (401, {}, "Hugging Face .*401"),
        (404, {"X-Error-Code": "RepoNotFound"}, "has no such repository"),
        (503, {}, "Hugging Face .* answers with 503: try again later"),
    ],
)
def test_an_answer_that_is_an_error(torch_twin, serve, tmp_path, status, headers, said):
    _, environment = serve(user=f"{USER}:{PASSWORD}@", hub=torch_twin, fault=answers(status, headers))
    line = refused(look(environment, HF_TOKEN=TOKEN), said)
    assert "Paddle's store (http://127.0.0.1" in line
    is_clean(tmp_path, torch_twin)


def test_a_hub_that_is_down_leaves_the_cache_in_use(torch_twin, serve):
    server, environment = serve(hub=torch_twin)
    assert look(environment).returncode == 1  # the prompt has a fault, so the model was read
    server.RequestHandlerClass.fault = staticmethod(answers(503))
    done = look(environment)
    assert done.returncode == 1 and '"sk" is not one' in done.stdout, done.stderr


@pytest.mark.parametrize("source", ["paddle", "hf"])
@pytest.mark.parametrize("fault", [half, other_bytes], ids=["half a file", "a wrong hash"])
def test_a_file_that_is_not_the_hubs(twin, torch_twin, serve, tmp_path, source, fault):
    models = {"paddle": dict(store=twin), "hf": dict(hub=torch_twin)}[source]
    server, environment = serve(user=f"{USER}:{PASSWORD}@", hashes=True, fault=fault, **models)
    said = {
        ("paddle", half): r"sent a file that can't be used: .*\.safetensors has \d+ bytes instead of \d+",
        ("paddle", other_bytes): r"sent a file that can't be used: .*\.safetensors is damaged: its hash is not",
        ("hf", half): "Hugging Face .* reports",
        ("hf", other_bytes): "a file that is damaged: its hash is not the one that the hub names",
    }[source, fault]
    refused(look(environment, **ONLY[source], HF_TOKEN=TOKEN), said)
    is_clean(tmp_path, twin if source == "paddle" else torch_twin)
    server.RequestHandlerClass.fault = None
    done = look(environment, **ONLY[source])
    assert done.returncode == 1 and '"sk" is not one' in done.stdout, done.stderr


def test_a_redirect_gets_no_token_and_its_signature_is_not_shown(torch_twin, serve, tmp_path):
    signed = f"?X-Amz-Credential={USER}&X-Amz-Signature={SIGNATURE}"
    store, _ = serve(fault=answers(403))

    def elsewhere(handler, path, body):
        if not is_weights(path):
            return False
        place = f"http://{USER}:{PASSWORD}@127.0.0.1:{store.server_port}/blob{signed}"
        file = torch_twin / "/".join(path.split("/")[-2:])
        size = {"X-Linked-Size": file.stat().st_size, "X-Linked-Etag": '"etag"'}
        handler.reply(302, b"", body, {"Location": place, **size})
        return True

    server, environment = serve(hub=torch_twin, fault=elsewhere, token=TOKEN)
    refused(look(environment, HF_TOKEN=TOKEN, FROM_HF_HUB="1"), "Hugging Face .*403")
    assert f"Bearer {TOKEN}" in server.tokens and store.asked
    assert not [each for each in store.tokens if each and TOKEN in each]
    is_clean(tmp_path, torch_twin)


@pytest.mark.parametrize("source", ["paddle", "hf"])
def test_a_cache_on_a_full_disk(twin, torch_twin, serve, small_disk, source):
    (small_disk / "filler").write_bytes(b"")
    small_disk.fill(300_000)
    _, environment = serve(hashes=True, **{"paddle": dict(store=twin), "hf": dict(hub=torch_twin)}[source])
    environment |= {"PPNLP_HOME": str(small_disk / "paddle"), "HF_HOME": str(small_disk / "huggingface")}
    done = look(environment, **ONLY[source])
    assert done.returncode == 1, done.stderr
    assert re.search(f"the download of {NAME}: the disk is full.*; make room, or set HF_HOME", one_line(done.stderr))
    is_clean(small_disk, twin if source == "paddle" else torch_twin)
    (small_disk / "filler").unlink()
    done = look(environment, **ONLY[source])
    assert done.returncode == 1 and '"sk" is not one' in done.stdout, done.stderr
