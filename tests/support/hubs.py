"""Paddle's store and Hugging Face, as servers on this machine, which may be at fault."""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.commands import python

SHA = "1" * 40
NAME = "somebody/small-model"


class Hub(BaseHTTPRequestHandler):
    """Serves one folder as Paddle's store does, and one as Hugging Face does; it may ask for a token.

    `fault` is called with (handler, path, whether a body follows) and returns whether it has answered. With `hashes`
    the files are named by their hashes, as the real ones do.
    """

    store = hub = token = fault = None
    hashes = False

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.split("?")[0]
        self.server.asked.append(path)
        self.server.tokens.append(self.headers.get("Authorization"))
        if self.fault and type(self).fault(self, path, body):
            return None
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
        self.reply(200, file.read_bytes(), body, self.named(file))

    def named(self, file):
        """The headers by which a file is known."""
        if not self.hashes:
            return {"ETag": f'"{file.stat().st_size}-{file.name}"'}
        data = file.read_bytes()
        if self.path.startswith("/paddlenlp"):
            return {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "x-bce-request-id": "1"}
        if file.suffix == ".safetensors":
            return {"ETag": '"no hash"', "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"'}
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return {"ETag": f'"{blob}"'}

    def reply(self, status, content, body, headers=None):
        self.send_response(status)
        for name, value in {"X-Repo-Commit": SHA, "Content-Length": len(content), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(folder):
    """A function that starts a server for what is named; it returns the server, and the environment of who asks it."""
    servers = []

    def start(user="", **what):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Serving", (Hub,), what))
        server.asked, server.tokens = [], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        address = f"http://{user}127.0.0.1:{server.server_port}"
        return server, {
            "PPNLP_ENDPOINT": f"{address}/paddlenlp",
            "PPNLP_HOME": str(folder / "paddle"),
            "HF_ENDPOINT": address,
            "HF_HOME": str(folder / "huggingface"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    try:
        yield start
    finally:
        for server in servers:
            stop(server)


def stop(server):
    server.shutdown()
    server.server_close()


def look(environment, **more):
    """Look at a prompt with the named model's tokenizer: a command that has to find the model."""
    return python(
        "-m", "dreambooth.identifier", "--model", NAME, "--check", "a photo of sk dog", **environment, **more
    )  # fmt: skip
