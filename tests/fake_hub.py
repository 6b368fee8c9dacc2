"""A small server that answers as the Hugging Face hub does: revisions, metadata, files with ranges."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000
"""Files of at least so many bytes are large ones: the hub states their SHA-256."""


@dataclass
class FakeHub:
    """Repositories by name, each a mapping from file to content, and what the server is to do wrong.

    Attributes:
        repos: what is published.
        gated: repositories whose terms nobody has accepted.
        cut_after: bytes after which a transfer of a large file breaks off, once.
        lie: state the digest of other content.
        served: every (file, first byte) that was asked for.
    """

    repos: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    cut_after: int | None = None
    lie: bool = False
    served: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""

    def sha256(self, content: bytes) -> str:
        return hashlib.sha256(content + (b"?" if self.lie else b"")).hexdigest()

    def listing(self, repo: str) -> dict[str, object]:
        siblings = []
        for name, content in self.repos[repo].items():
            entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob(content)}
            if len(content) >= LARGE:
                entry["lfs"] = {"sha256": self.sha256(content), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {
            "id": repo,
            "modelId": repo,
            "sha": COMMIT,
            "tags": ["license:apache-2.0"],
            "gated": "manual" if repo in self.gated else False,
            "private": False,
            "siblings": siblings,
        }


def blob(content: bytes) -> str:
    """Git's object id."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Answer for ``hub`` on a port of this machine, whose address becomes ``hub.url``."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._info(match[1], match[2], body)
        elif match := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], body)
        else:
            self._refuse("EntryNotFound", 404)

    def _info(self, repo: str, revision: str | None, body: bool) -> None:
        if repo not in self.hub.repos:
            self._refuse("RepoNotFound", 404)
        elif revision not in (None, "main", COMMIT):
            self._refuse("RevisionNotFound", 404)
        else:
            content = json.dumps(self.hub.listing(repo)).encode()
            self._send(200, content if body else b"", {"Content-Type": "application/json"}, len(content))

    def _file(self, repo: str, revision: str, name: str, body: bool) -> None:
        files = self.hub.repos.get(repo)
        if files is None:
            return self._refuse("RepoNotFound", 404)
        if repo in self.hub.gated:
            return self._refuse("GatedRepo", 403)
        if name not in files:
            return self._refuse("EntryNotFound", 404)
        content = files[name]
        etag = self.hub.sha256(content) if len(content) >= LARGE else blob(content)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        start = 0
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = content[start:]
        if not body:
            return self._send(200, b"", headers, len(part))
        self.hub.served.append((name, start))
        if self.hub.cut_after is not None and len(content) >= LARGE:
            cut, self.hub.cut_after = self.hub.cut_after, None
            self._send(206 if start else 200, part[:cut], headers, len(part))
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return None
        return self._send(206 if start else 200, part, headers, len(part))

    def _refuse(self, code: str, status: int) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code}, 0)

    def _send(self, status: int, content: bytes, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)
