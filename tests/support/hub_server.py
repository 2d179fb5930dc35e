"""A stub of the Hugging Face hub on loopback: as much of it as a data set needs that is pushed."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "stub" * 8
"""The one that it knows."""


@dataclass
class Hub:
    """The running server.

    Attributes:
        address: `http://host:port`.
        files: content of each file, by `OWNER/NAME` and path.
        private: whether each repository was made private.
        requests: method and path of all requests.
        answer: a status that every request is answered with instead.
    """

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    answer: int | None = None
    _sent: dict[str, bytes] = field(default_factory=dict)

    def reply(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON for a request."""
        self.requests.append(f"{method} {path}")
        if self.answer is not None:
            return self.answer, {"error": "as the test wants it"}
        if path.startswith("/sent/"):  # what an upload's own address allows
            self._sent[path.removeprefix("/sent/")] = body
            return 200, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials in Authorization header"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._created(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            asked = json.loads(body)["objects"]
            ways = [{**one, "actions": {"upload": {"href": f"{self.address}/sent/{one['oid']}"}}} for one in asked]
            return 200, {"transfer": "basic", "objects": ways}
        kind, owner, name, *rest = path.partition("?")[0].removeprefix("/api/").split("/")
        repository = self.files.get(f"{owner}/{name}")
        if kind != "datasets" or repository is None:
            return 404, {"error": "Repository not found"}
        return self._of(repository, f"{owner}/{name}", rest, body)

    def _created(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked['organization']}/{asked['name']}"
        there = {"url": f"{self.address}/datasets/{name}", "id": name}
        if name in self.files:
            return 409, {**there, "error": "You already created this dataset repo"}
        self.files[name] = {".gitattributes": b"*.parquet filter=lfs"}
        self.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return 200, there

    def _of(self, files: dict[str, bytes], name: str, rest: list[str], body: bytes) -> tuple[int, Any]:
        """What one repository answers."""
        if rest[:1] == ["preupload"]:
            asked = json.loads(body)["files"]
            modes = {one["path"]: "lfs" if one["path"].endswith(".parquet") else "regular" for one in asked}
            return 200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]}
        if rest[:1] == ["tree"]:
            return 200, [{"type": "file", "path": path, "size": len(files[path]), "oid": "0"} for path in files]
        if rest[:1] == ["commit"]:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self._sent[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            return 200, {"commitUrl": f"{self.address}/datasets/{name}/commit/1", "commitOid": "1" * 40}
        siblings = [{"rfilename": path} for path in files]
        return 200, {"id": name, "sha": "1" * 40, "siblings": siblings, "private": self.private[name]}


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub without repositories, while the block lasts."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said = hub.reply(self.command, self.path, self.headers.get("Authorization", ""), body)
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
