"""Models by name: a store and a hub on this machine stand in for Paddle's and Hugging Face's."""

import shutil
from pathlib import Path

import pytest
from support.commands import python
from support.crafted_pickles import system, torch_file
from support.disks import run_out
from support.hubs import NAME, look, stop

from dreambooth.models import hub as models_hub
from dreambooth.system import disk


def found(done):
    # the model is there, and the prompt has a fault
    return done.returncode == 1 and '"sk" is not one' in done.stdout


def test_paddles_store_is_the_first_source_and_its_copy_stays(twin, torch_twin, serve):
    server, environment = serve(store=twin, hub=torch_twin)
    done = look(environment)
    assert found(done), done.stderr
    assert not [path for path in server.asked if path.startswith(("/api", f"/{NAME}"))]
    stop(server)
    assert found(look(environment))  # nobody answers any more


def test_a_strangers_model_from_the_store_or_its_cache_runs_nothing(twin, serve, tmp_path):
    store = shutil.copytree(twin, tmp_path / "store")
    for path in (store / "unet").glob("*.safetensors"):
        path.unlink()
    (store / "unet/model_state.pdparams").write_bytes(system(tmp_path / "marker"))
    server, environment = serve(store=store)
    for _ in range(2):  # from the store, and from the cache
        done = look(environment)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert "error: --model " in done.stderr
        assert "unet/model_state.pdparams: it refers to posix.system" in done.stderr
        assert not (tmp_path / "marker").exists()


def test_safetensors_of_the_store_go_before_pickles(twin, serve, tmp_path):
    store = shutil.copytree(twin, tmp_path / "store")
    for part in ("unet", "vae", "text_encoder"):
        (store / part / "model_state.pdparams").write_bytes(system(tmp_path / "marker"))
    server, environment = serve(store=store)
    done = look(environment)
    assert found(done), done.stderr
    assert not [path for path in server.asked if path.endswith(".pdparams")]


def test_a_strangers_model_from_hugging_face_runs_nothing(torch_twin, serve, tmp_path):
    hub = shutil.copytree(torch_twin, tmp_path / "hub")
    (hub / "text_encoder/model.safetensors").unlink()
    torch_file(hub / "text_encoder/pytorch_model.bin", system(tmp_path / "marker", 2))
    (hub / "None.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    (hub / "unet/code.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    server, environment = serve(hub=hub)
    done = look(environment)
    [error] = [line for line in done.stderr.splitlines() if line and not line.startswith("Fetching")]
    assert done.returncode == 2 and "text_encoder/pytorch_model.bin: it refers to posix.system" in error
    assert not (tmp_path / "marker").exists() and not [path for path in server.asked if path.endswith(".py")]


def test_a_model_that_the_store_lacks_comes_from_hugging_face(torch_twin, serve):
    server, environment = serve(hub=torch_twin)
    done = look(environment)
    assert found(done), done.stderr
    assert not [path for path in server.asked if "safety_checker" in path or path.endswith(".ckpt")]
    stop(server)
    assert found(look(environment, HF_HUB_OFFLINE="1"))
    assert found(look(environment))


def test_hugging_face_can_be_the_only_source(twin, torch_twin, serve):
    server, environment = serve(store=twin, hub=torch_twin)
    assert found(look(environment, FROM_HF_HUB="1"))
    assert not [path for path in server.asked if path.startswith("/paddlenlp")]


def test_of_one_network_the_best_file_is_fetched_alone(twin, serve, tmp_path):
    hub = shutil.copytree(twin / "unet", tmp_path / "hub")
    [best] = [path.name for path in hub.glob("*.safetensors")]
    for name in ("model_state.pdparams", "diffusion_pytorch_model.bin", "README.md"):
        (hub / name).write_bytes(b"not needed")
    (hub / "other").mkdir()
    (hub / "other/config.json").write_text("{}")
    server, environment = serve(hub=hub)
    code = f"from dreambooth.models import hub; print(hub.find_network({NAME!r}, '--controlnet'))"
    for again in (False, True):
        done = python("-c", code, **environment)
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.splitlines()[-1])
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", best]
        if not again:
            stop(server)
            environment = {**environment, "HF_HUB_OFFLINE": "1"}


def test_a_token_opens_a_gated_repository(torch_twin, serve):
    _, environment = serve(hub=torch_twin, token="hf_secret")
    closed = look(environment)
    assert closed.returncode == 2 and "accepted its licence: set HF_TOKEN" in closed.stderr
    assert found(look(environment, HF_TOKEN="hf_secret"))


def test_a_model_without_a_source_ends_in_one_line(serve):
    server, environment = serve()
    done = look(environment)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "Paddle's store (http://127.0.0.1" in done.stderr and "Hugging Face (http://127.0.0.1" in done.stderr
    assert "has no such repository, or a private one: then set HF_TOKEN" in done.stderr
    stop(server)
    done = look(environment, HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "HF_HUB_OFFLINE is set, so nothing was fetched" in done.stderr


def test_a_folder_is_found_as_itself(twin):
    assert models_hub.find_model(str(twin)) == str(twin)


def test_an_incomplete_model_in_the_cache_is_not_whole(twin, tmp_path):
    assert models_hub._is_whole(twin)
    assert not models_hub._is_whole(tmp_path) and not models_hub._is_whole(tmp_path / "nowhere")


@pytest.mark.parametrize("source", ["_fetch_from_paddle", "_fetch_from_hugging_face"])
def test_a_download_that_finds_no_room_is_one_line(monkeypatch, source):
    monkeypatch.setattr(models_hub, "_fetch_from_paddle", lambda *name: 1 / 0)
    monkeypatch.setattr(models_hub, source, run_out)
    with pytest.raises(
        disk.DiskFull, match="^the download of somebody/model: the disk is full; make room, or set HF_HOME"
    ):
        models_hub.find_model("somebody/model")


def other_byte(handler, path, body):
    """Answer for a tokenizer's vocabulary with other bytes than those of its hash."""
    if not path.endswith("vocab.json"):
        return False
    file = (handler.store or handler.hub) / "tokenizer/vocab.json"
    handler.reply(200, file.read_bytes()[:-1] + b" ", body, handler.named(file))
    return True


@pytest.mark.parametrize("source", ["store", "hub"])
def test_a_file_with_another_hash_is_refused_and_no_password_is_shown(torch_twin, twin, serve, tmp_path, source):
    model = {"store": twin, "hub": torch_twin}[source]
    server, environment = serve(user="me:secret@", hashes=True, fault=other_byte, **{source: model})
    environment |= {"FROM_HF_HUB": "1"} if source == "hub" else {}
    done = look(environment)
    assert done.returncode == 2 and "hash is not the one that the" in done.stderr and "secret" not in done.stderr
    assert f"(http://127.0.0.1:{server.server_port}" in done.stderr
    assert not list(tmp_path.rglob("vocab.json"))
    server.RequestHandlerClass.fault = None
    assert found(look(environment))


@pytest.mark.parametrize("headers, said", [({}, None), ({"Content-Length": "9"}, "a.json has 3 bytes instead of 9")])
def test_a_file_of_the_store_that_is_cut_short_is_refused(tmp_path, monkeypatch, headers, said):
    class Answer:
        status_code = 200

        def __init__(self):
            self.headers = headers

        __enter__ = raise_for_status = lambda self: self
        __exit__ = lambda self, *error: None  # noqa: E731
        iter_content = lambda self, size: iter([b"a", b"bc"])  # noqa: E731

    monkeypatch.setattr("requests.get", lambda *more, **options: Answer())
    path = tmp_path / "cache/a.json"
    if said:
        with pytest.raises(OSError, match=said):
            models_hub._fetch_whole("http://store/a.json", path)
        assert not list(path.parent.iterdir())
    else:
        assert models_hub._fetch_whole("http://store/a.json", path) and path.read_bytes() == b"abc"


def test_addresses_are_shown_without_what_is_secret_in_them(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://me:se@cret@hub.org:8443/mirror?token=secret#x")
    assert models_hub._shown("HF_ENDPOINT", "https://huggingface.co") == "https://hub.org:8443/mirror"
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert models_hub._shown("HF_ENDPOINT", "https://huggingface.co") == "https://huggingface.co"
