"""A small server that answers as the Hugging Face hub does: metadata, files with ranges, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

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
        web: files at plain addresses, ``URL/web/NAME``.
        ranges: whether those are served in part.
        tokens: names of accounts by token. An account may write to repositories of its name.
        private: repositories that only accounts with a token see.
        heads: commits of branches, by repository.
        history: files of commits that were made here, by commit.
        sent: names of the files of each commit.
    """

    repos: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    cut_after: int | None = None
    lie: bool = False
    served: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""
    web: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    tokens: dict[str, str] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    heads: dict[str, dict[str, str]] = field(default_factory=dict)
    history: dict[str, dict[str, bytes]] = field(default_factory=dict)
    sent: list[list[str]] = field(default_factory=list)
    lfs: dict[str, bytes] = field(default_factory=dict)

    def resolve(self, repo: str, revision: str | None) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a revision."""
        heads = self.heads.setdefault(repo, {"main": COMMIT})
        commit = heads.get(revision or "main", revision or "")
        if commit == COMMIT:
            return commit, self.repos[repo]
        return (commit, self.history[commit]) if commit in self.history else None

    def commit(self, repo: str, branch: str, lines: list[dict[str, Any]]) -> str | None:
        """Make a commit of what huggingface_hub sends; None if the branch is not where it should be."""
        parent, files = self.resolve(repo, branch) or ("", {})
        if lines[0]["value"].get("parentCommit", parent) != parent:
            return None
        files = dict(files)
        for line in lines[1:]:
            value, large = line["value"], line["key"] == "lfsFile"
            content = self.lfs[value["oid"]] if large else base64.b64decode(value["content"])
            files[value["path"]] = content
        made = hashlib.sha1(json.dumps([parent, lines]).encode()).hexdigest()
        self.history[made] = files
        self.heads[repo][branch] = made
        self.sent.append([line["value"]["path"] for line in lines[1:]])
        return made

    def sha256(self, content: bytes) -> str:
        return hashlib.sha256(content + (b"?" if self.lie else b"")).hexdigest()

    def listing(self, repo: str, commit: str, files: dict[str, bytes]) -> dict[str, object]:
        siblings = []
        for name, content in files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob(content)}
            if len(content) >= LARGE:
                entry["lfs"] = {"sha256": self.sha256(content), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {
            "id": repo,
            "modelId": repo,
            "sha": commit,
            "tags": ["license:apache-2.0"],
            "gated": "manual" if repo in self.gated else False,
            "private": repo in self.private,
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

    def do_PUT(self) -> None:
        self.hub.lfs[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(200, b"", {}, 0)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        if path == "/api/validate-yaml":
            return self._json({"warnings": [{"message": "empty metadata"}], "errors": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization'] or self._account()}/{asked['name']}"
        else:
            repo = "/".join(path.removeprefix("/api/models").split("/")[1:3]).removesuffix(".git")
        if self._account() != repo.partition("/")[0]:
            return self._refuse("", 403 if self._account() else 401)
        if path == "/api/repos/create":
            return self._create(repo, asked.get("visibility") == "private" or bool(asked.get("private")))
        return self._write(repo, path, body)

    def _create(self, repo: str, private: bool) -> None:
        if repo in self.hub.repos:
            return self._refuse("", 409)
        self.hub.repos[repo] = {".gitattributes": b""}
        if private:
            self.hub.private.add(repo)
        return self._json({"url": f"{self.hub.url}/{repo}"})

    def _write(self, repo: str, path: str, body: bytes) -> None:
        if match := re.search(r"/branch/(.+)$", path):
            asked = json.loads(body).get("startingPoint")
            commit, _ = self.hub.resolve(repo, asked) or (COMMIT, {})
            self.hub.heads[repo][match[1]] = commit
            return self._json({})
        if "/preupload/" in path:
            sizes = {file["path"]: file["size"] for file in json.loads(body)["files"]}
            modes = {path: "lfs" if size >= LARGE else "regular" for path, size in sizes.items()}
            files = [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]
            return self._json({"files": files})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        branch = path.rpartition("/commit/")[2]
        made = self.hub.commit(repo, branch, [json.loads(line) for line in body.splitlines()])
        if made is None:
            return self._refuse("", 412)
        return self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{made}", "commitOid": made})

    def _account(self) -> str | None:
        return self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self._send(200, content, {"Content-Type": "application/json"}, len(content))

    def _answer(self, body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        if path == "/api/whoami-v2":
            return self._json({"name": self._account()}) if self._account() else self._refuse("", 401)
        if path.startswith("/web/") and (name := path.removeprefix("/web/")) in self.hub.web:
            content = self.hub.web[name]
            return self._content(name, content, {"ETag": f'"{blob(content)}"'}, body, self.hub.ranges)
        if match := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._info(match[1], match[2], body)
        elif match := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], body)
        else:
            self._refuse("EntryNotFound", 404)
        return None

    def _info(self, repo: str, revision: str | None, body: bool) -> None:
        if repo not in self.hub.repos or (repo in self.hub.private and not self._account()):
            self._refuse("RepoNotFound", 404)
        elif (found := self.hub.resolve(repo, revision)) is None:
            self._refuse("RevisionNotFound", 404)
        else:
            content = json.dumps(self.hub.listing(repo, *found)).encode()
            self._send(200, content if body else b"", {"Content-Type": "application/json"}, len(content))

    def _file(self, repo: str, revision: str, name: str, body: bool) -> None:
        if repo not in self.hub.repos:
            return self._refuse("RepoNotFound", 404)
        commit, files = self.hub.resolve(repo, revision) or ("", {})
        if repo in self.hub.gated:
            return self._refuse("GatedRepo", 403)
        if name not in files:
            return self._refuse("EntryNotFound", 404)
        content = files[name]
        etag = self.hub.sha256(content) if len(content) >= LARGE else blob(content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        return self._content(name, content, headers, body)

    def _content(
        self, name: str, content: bytes, headers: dict[str, str], body: bool, ranges: bool = True
    ) -> None:
        start, end = 0, len(content) - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if ranges else None
        if asked:
            start, end = int(asked[1]), int(asked[2] or end)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        part = content[start : end + 1]
        if not body:
            return self._send(200, b"", headers, len(part))
        if asked and end == start == 0:
            return self._send(206, part, headers, len(part))
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
