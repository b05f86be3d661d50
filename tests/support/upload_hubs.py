"""Hugging Face's hub as a server on this machine that takes uploads: it speaks the protocol, and may be at fault."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_" + "s" * 34
NAME = "somebody/sks-dog"


class Hub(BaseHTTPRequestHandler):
    """Keeps what it receives in its server: `objects` by their hashes, `repositories` by name, and every `body`."""

    def do_GET(self):
        self.take()

    def do_POST(self):
        self.take()

    def do_PUT(self):
        self.take()

    def take(self):
        path, server = self.path.split("?")[0], self.server
        server.asked.append(f"{self.command} {path}")
        if server.fault and server.fault(self, path, server.asked.count(f"{self.command} {path}")):
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.bodies.append(body)
        server.headers_seen.append(dict(self.headers))
        if path.startswith("/upload/"):
            oid = path.removeprefix("/upload/")
            assert hashlib.sha256(body).hexdigest() == oid
            server.objects[oid] = body
            return self.reply(200, {})
        if self.headers.get("Authorization", "").split()[-1:] != [TOKEN] and not self.headers.get(
            "Authorization", ""
        ).startswith("Basic"):
            return self.reply(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            large = (".safetensors", ".pdparams", ".png")
            modes = [{"path": each["path"], "uploadMode": "lfs" if each["path"].endswith(large) else "regular",
                      "shouldIgnore": False} for each in files]  # fmt: skip
            return self.reply(200, {"files": modes})
        if path.endswith("/info/lfs/objects/batch"):
            return self.batch(json.loads(body)["objects"])
        if path == "/verify":
            return self.reply(200, {})
        if path.endswith("/commit/main"):
            return self.commit(path.split("/api/models/")[1].removesuffix("/commit/main"), body)
        self.reply(404, {"error": "no such page"}, {"X-Error-Code": "RepoNotFound"})

    def create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            return self.reply(409, {"error": "You already created this model repo", "url": self.url(name)})
        self.server.repositories[name] = {}
        self.server.private[name] = asked.get("private")
        self.reply(200, {"url": self.url(name), "name": name})

    def url(self, name):
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def batch(self, objects):
        answers, here = [], f"http://127.0.0.1:{self.server.server_port}"
        for each in objects:
            actions = {"upload": {"href": f"{here}/upload/{each['oid']}"}, "verify": {"href": f"{here}/verify"}}
            known = each["oid"] in self.server.objects
            answers.append({**each, **({} if known else {"actions": actions})})
        self.reply(200, {"objects": answers, "transfer": "basic"})

    def commit(self, name, body):
        files = dict(self.server.repositories[name])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        self.server.repositories[name] = files  # all at once
        self.server.commits += 1
        self.reply(200, {"success": True, "commitOid": "2" * 40, "commitUrl": f"{self.url(name)}/commit/{'2' * 40}"})

    def reply(self, status, answer, headers=None):
        content = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {
            "Content-Length": len(content),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def cut(self):
        """End the connection without an answer."""
        self.close_connection = True
        self.connection.close()
        return True

    def answer(self, status, **headers):
        """Answer with a fault; whatever was sent is read, so that the sender hears of it."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.reply(status, {"error": f"a fault of {status}"}, headers)
        return True

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def receiving():
    """Start a server; it is yielded, and has what it received."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.fault, server.commits = None, 0
    server.asked, server.bodies, server.headers_seen = [], [], []
    server.objects, server.repositories, server.private = {}, {}, {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
