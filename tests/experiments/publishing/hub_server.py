"""A model hub for tests: the part of its HTTP interface that huggingface_hub needs to send and to fetch a repository.

Files are kept in memory. Every commit is a whole new state with a hash; "main" is the last one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_a_test"


class Hub:
    """What the server holds.

    Attributes:
        repositories: USER/NAME -> states by commit hash, the last one being main.
        private: those that were made so.
        asked: the paths of all files that were fetched.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.asked: list[str] = []
        self.address = ""

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Add files to a repository; gives the commit's hash."""
        states = self.repositories.setdefault(name, {})
        content = {**(list(states.values())[-1] if states else {}), **files}
        digest = hashlib.sha1(repr((len(states), sorted(content.items()))).encode()).hexdigest()
        states[digest] = content
        return digest

    def state(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit's hash and files; of "main" the last one's."""
        states = self.repositories.get(name, {})
        digest = list(states)[-1] if revision == "main" and states else revision
        return (digest, states[digest]) if digest in states else None


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub at `hub.address` for the length of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        pass

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/validate-yaml":
            return self._answer(200, {"warnings": [], "errors": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            named = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": named})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            digest = self.hub.commit(match[1], files)
            address = f"{self.hub.address}/{match[1]}/commit/{digest}"
            return self._answer(200, {"commitUrl": address, "commitOid": digest, "success": True})
        return self._answer(404, {"error": path})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.hub.repositories:
            return self._answer(
                409, {"error": "You already created this model repo", "url": f"{self.hub.address}/{name}"}
            )
        self.hub.commit(name, {".gitattributes": b""})
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.add(name)
        return self._answer(200, {"url": f"{self.hub.address}/{name}", "name": name})

    def do_GET(self) -> None:
        self._get(body=True)

    def do_HEAD(self) -> None:
        self._get(body=False)

    def _get(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            name, kind, revision = match[1], match[2], match[3] or "main"
            found = self.hub.state(name, revision)
            if found is None:
                return self._missing(name)
            digest, files = found
            if kind == "tree":
                rows = [
                    {"type": "file", "path": key, "size": len(value), "oid": hashlib.sha1(value).hexdigest()}
                    for key, value in files.items()
                ]
                return self._answer(200, rows)
            siblings = [{"rfilename": key} for key in files]
            return self._answer(
                200, {"id": name, "modelId": name, "sha": digest, "siblings": siblings, "private": False}
            )
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            found = self.hub.state(match[1], match[2])
            if found is None or match[3] not in found[1]:
                return self._missing(match[1])
            self.hub.asked.append(match[3])
            content = found[1][match[3]]
            etag = hashlib.sha1(content).hexdigest()
            return self._send(
                200, content if body else b"", len(content), {"ETag": f'"{etag}"', "X-Repo-Commit": found[0]}
            )
        return self._answer(404, {"error": path})

    def _missing(self, name: str) -> None:
        code = "RevisionNotFound" if name in self.hub.repositories else "RepoNotFound"
        self._send(404, b"{}", 2, {"X-Error-Code": code, "X-Error-Message": f"{name} is not here"})

    def _answer(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self._send(status, data, len(data), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)
