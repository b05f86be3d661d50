"""Models by name: a store and a hub on this machine stand in for Paddle's and Hugging Face's."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.commands import python
from support.crafted_pickles import system, torch_file
from support.disks import run_out
from support.families import load_pipeline

from dreambooth.models import hub as models_hub
from dreambooth.models import saving
from dreambooth.system import disk

SHA = "1" * 40
NAME = "somebody/small-model"


class Hub(BaseHTTPRequestHandler):
    """Serves one folder as Paddle's store does, and one as Hugging Face does; it may ask for a token."""

    store = hub = token = None

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.split("?")[0]
        self.server.asked.append(path)
        store, hub = f"/paddlenlp/models/community/{NAME}/", f"/{NAME}/resolve/{SHA}/"
        api = f"/api/models/{NAME}"
        if path.startswith(store) and self.store:
            return self.send(self.store / path.removeprefix(store), body)
        if self.hub and path.startswith((hub, api)):
            if self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
                return self.reply(403, b"", body, {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask for access"})
            if path.startswith(hub):
                return self.send(self.hub / path.removeprefix(hub), body)
            names = sorted(str(each.relative_to(self.hub)) for each in self.hub.rglob("*") if each.is_file())
            if "/tree/" in path:
                listed = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names]
            else:
                listed = {"id": NAME, "sha": SHA, "siblings": [{"rfilename": name} for name in names]}
            return self.reply(200, json.dumps(listed).encode(), body)
        self.reply(404, b"", body, {"X-Error-Code": "RepoNotFound"})

    def send(self, file, body):
        if not file.is_file():
            return self.reply(404, b"", body, {"X-Error-Code": "EntryNotFound"})
        self.reply(200, file.read_bytes(), body, {"ETag": f'"{file.stat().st_size}-{file.name}"'})

    def reply(self, status, content, body, headers=None):
        self.send_response(status)
        for name, value in {"X-Repo-Commit": SHA, "Content-Length": len(content), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def torch_twin(twin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "twin"
    saving.save(load_pipeline(twin), folder, "diffusers")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/model.safetensors").write_bytes(b"not needed")
    (folder / "v1.ckpt").write_bytes(b"not needed")
    return folder


@pytest.fixture
def serve(tmp_path):
    """Starts a server for what is named, and returns the environment in which it is asked."""
    servers = []

    def start(**what):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Serving", (Hub,), what))
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        address = f"http://127.0.0.1:{server.server_port}"
        return server, {
            "PPNLP_ENDPOINT": f"{address}/paddlenlp",
            "PPNLP_HOME": str(tmp_path / "paddle"),
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "huggingface"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def stop(server):
    server.shutdown()
    server.server_close()


def look(environment, **more):
    """Look at a prompt with the named model's tokenizer: a command that has to find the model."""
    return python(
        "-m", "dreambooth.identifier", "--model", NAME, "--check", "a photo of sk dog", **environment, **more
    )  # fmt: skip


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
