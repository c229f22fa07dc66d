"""A small hub on loopback: it serves checkpoint folders as `huggingface_hub.snapshot_download` asks for them.

>>> with HubServer("svdlab/micro", folder) as server:
...     server.gated = True

It answers as huggingface.co does: anyone may list a gated repository, and its files are refused; a private one looks
missing without a token; files come with the ETag, commit and length that the client checks. Every request is kept in
`requests`, so a test can say what was asked for, and what was not.
"""

from __future__ import annotations

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


class HubServer:
    """One repository with its commits and refs. The switches may be changed while it runs."""

    def __init__(self, repository: str, folder: Path) -> None:
        self.repository = repository
        self.commits: dict[str, Path] = {}
        self.refs: dict[str, str] = {}  # branch or tag -> commit
        self.requests: list[str] = []  # "GET /path"
        self.authorizations: set[str | None] = set()  # the Authorization headers that were sent
        self.gated = False  # anyone may list it, only `readers` may fetch
        self.private = False  # it does not exist but for `readers`
        self.readers: set[str] = set()  # tokens that may read everything
        self.strangers: set[str] = set()  # valid tokens without access here; any other token is refused as invalid
        self.status: int | None = None  # answered to everything, as when the hub is down (503)
        self.message = "Internal Error - We're working hard to fix this as soon as possible!"
        self.resumed: dict[str, int] = {}  # file -> the byte from which it was last asked for
        self.cut = ""  # files whose path contains this are cut in the middle, however often they are asked for
        self.commit(folder)
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def commit(self, folder: Path, *refs: str) -> str:
        """Serve `folder` as a new commit, on `main` unless other branches or tags are named."""
        sha = hashlib.sha1(f"{len(self.commits)} {folder}".encode()).hexdigest()
        self.commits[sha] = folder
        for ref in refs or ("main",):
            self.refs[ref] = sha
        return sha

    def fetched_files(self) -> set[str]:
        """The files whose content was asked for."""
        matches = (re.match(r"GET .*/resolve/[^/]+/(.*)", request) for request in self.requests)
        return {match[1] for match in matches if match}

    def stop(self) -> None:
        """From here on, connections are refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> HubServer:
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.stop()


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: each answer closes its connection, so nothing outlives `stop`."""

    hub: HubServer

    def do_GET(self) -> None:
        hub = self.hub
        path = urlsplit(self.path).path
        authorization = self.headers.get("Authorization")
        hub.requests.append(f"{self.command} {unquote(path)}")
        hub.authorizations.add(authorization)
        token = (authorization or "").removeprefix("Bearer ")
        file = re.fullmatch(rf"/{hub.repository}/resolve/([^/]+)/(.+)", path)
        api = re.fullmatch(rf"/api/models/{hub.repository}(?:/(revision|tree)/([^/]+))?", path)
        revision = unquote(file[1] if file else (api[2] if api else None) or "main")  # "trial%2Fbranch" is one name
        if hub.status is not None:
            self._refuse(hub.status, "", hub.message)
        elif token and token not in hub.readers | hub.strangers:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif hub.private and not token:
            self._refuse(401, "", "Invalid username or password.")
        elif not (file or api) or (hub.private and token not in hub.readers):
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif (commit := hub.refs.get(revision, revision)) not in hub.commits:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif hub.gated and file and token not in hub.readers:
            self._refuse(403 if token else 401, "GatedRepo", f"Access to model {hub.repository} is restricted.")
        elif file:
            self._send_file(commit, unquote(file[2]))
        elif api and api[1] == "tree":
            self._send_json(self._list_files(hub.commits[commit]))
        else:
            siblings = [{"rfilename": file["path"]} for file in self._list_files(hub.commits[commit])]
            info = {"id": hub.repository, "modelId": hub.repository, "sha": commit, "private": hub.private}
            self._send_json(info | {"siblings": siblings})

    do_HEAD = do_GET

    def _list_files(self, folder: Path) -> list[dict[str, object]]:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        return [
            {"type": "file", "path": file.relative_to(folder).as_posix(), "size": file.stat().st_size, "oid": "0" * 40}
            for file in files
        ]

    def _send_file(self, commit: str, name: str) -> None:
        path = self.hub.commits[commit] / name
        headers = {"X-Repo-Commit": commit}
        if not path.is_file():
            return self._refuse(404, "EntryNotFound", "Entry not found", headers)
        stat = path.stat()
        etag = hashlib.sha256(f"{name} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
        headers |= {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(part[1]) if part else 0
        if part:
            self.hub.resumed[name] = start
            headers["Content-Range"] = f"bytes {start}-{stat.st_size - 1}/{stat.st_size}"
        cut = self.command == "GET" and self.hub.cut and self.hub.cut in name
        length = stat.st_size - start
        self._send_head(206 if part else 200, headers, length)
        if self.command == "GET":
            with path.open("rb") as file:
                file.seek(start)
                remaining = length // 2 if cut else length
                while remaining and (block := file.read(min(remaining, 2**20))):
                    self.wfile.write(block)
                    remaining -= len(block)
        return None

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        reasons = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, b"", (headers or {}) | {name: value for name, value in reasons.items() if value})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._send_head(status, headers, len(body))
        if self.command == "GET":
            self.wfile.write(body)

    def _send_head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""
