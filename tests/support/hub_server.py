"""A stand-in for the Hugging Face hub: a local server with the few routes that fetching and pushing a model need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "other")  # of the hub's list
LARGE = (".safetensors", ".onnx", ".png")  # stored as LFS, named by SHA-256


def digest(name: str, data: bytes) -> str:
    if name.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def card_errors(text: str) -> list[str]:
    """What the hub has against the metadata of a model card."""
    values = yaml.safe_load(text.split("---")[1])
    licence, name = values.get("license", "mit"), values.get("license_name", "none")
    errors = [] if licence in LICENCES else [f'"license" must be one of {", ".join(LICENCES)}']
    return errors + ([] if re.fullmatch(r"[a-z0-9.-]+", name) else ['"license_name" must be like my-license-1.0'])


class Hub:
    """Repositories by name, each with its revisions, each of those with its files.

    Attributes:
        repos: `repos["me/paws"]["main"]["model.yaml"]` is what is in the file.
        private: Names of repositories that need the token.
        requests: Method and path of each request.
        failure: Status that each request to its API gets; 0: none.
    """

    token = "hf_secret"

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.sizes: dict[str, int] = {}  # what is said of a file, where it is not so
        self.requests: list[str] = []
        self.stored: dict[str, bytes] = {}
        self.url = ""
        self.failure = 0

    def add(self, repo: str, folder: Path, revision: str = "main") -> None:
        files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        self.repos.setdefault(repo, {})[revision] = files

    def commit_of(self, repo: str, revision: str) -> str:
        return hashlib.sha1(repr(sorted(self.repos[repo][revision].items())).encode()).hexdigest()

    def find(self, repo: str, revision: str) -> dict[str, bytes] | None:
        revisions = self.repos[repo]
        return next((revisions[name] for name in revisions if revision in (name, self.commit_of(repo, name))), None)


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def reply(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(data)), **{k.replace("_", "-"): v for k, v in headers.items()}}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def allowed(self, repo: str) -> bool:
        knows = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if repo in self.hub.repos and (knows or repo not in self.hub.private):
            return True
        self.reply(401 if not knows else 404, X_Error_Code="RepoNotFound")
        return False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"{self.command} {path}")
        parts = path.split("/")
        if parts[:2] == ["api", "models"]:
            self.about("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.reply(200)

    def about(self, repo: str, rest: list[str]) -> None:
        if self.hub.failure:
            self.reply(self.hub.failure)
            return
        if not self.allowed(repo):
            return
        if rest == ["refs"]:
            refs = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": "0"} for name in self.hub.repos[repo]]
            self.reply(200, {"branches": refs, "tags": [], "converts": []})
            return
        revision = rest[1] if rest[:1] in (["revision"], ["tree"]) else "main"
        files = self.hub.find(repo, revision)
        if files is None:
            self.reply(404, X_Error_Code="RevisionNotFound")
            return
        own = next(name for name, each in self.hub.repos[repo].items() if each is files)
        if rest[:1] == ["tree"]:
            entries = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files.items()]
            self.reply(200, entries)
            return
        siblings = [{"rfilename": name, "size": self.hub.sizes.get(name, len(data))} for name, data in files.items()]
        self.reply(200, {"id": repo, "modelId": repo, "sha": self.hub.commit_of(repo, own), "siblings": siblings})

    def resolve(self, repo: str, revision: str, name: str) -> None:
        if not self.allowed(repo):
            return
        files = self.hub.find(repo, revision)
        if files is None or name not in files:
            self.reply(404, X_Error_Code="RevisionNotFound" if files is None else "EntryNotFound")
            return
        own = next(key for key, each in self.hub.repos[repo].items() if each is files)
        data = files[name]
        self.reply(200, data, ETag=f'"{digest(name, data)}"', X_Repo_Commit=self.hub.commit_of(repo, own))

    def do_PUT(self) -> None:
        self.hub.stored[self.path.rpartition("/")[2]] = self.body()
        self.reply(200)

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path).strip("/"), self.body()
        self.hub.requests.append(f"POST {path}")
        if path == "api/validate-yaml":
            errors = card_errors(json.loads(body)["content"])
            found = {"errors": [{"message": text} for text in errors], "warnings": []}
            as_text = self.headers.get("Accept") == "text/plain"
            self.reply(400 if errors else 200, "\n".join(errors).encode() if as_text else found)
            return
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.reply(401, X_Error_Message="Invalid username or password.")
            return
        values = {} if "/commit/" in path else json.loads(body)
        parts = path.split("/")
        if path == "api/repos/create":
            repo = f"{values['organization']}/{values['name']}"
            self.hub.repos.setdefault(repo, {"main": {}})
            self.hub.private |= {repo} if values.get("private") or values.get("visibility") == "private" else set()
            self.reply(200, {"url": f"{self.hub.url}/{repo}", "id": repo})
        elif parts[4:5] == ["branch"]:
            revisions, there = self.hub.repos["/".join(parts[2:4])], "/".join(parts[5:])
            known = there in revisions
            revisions.setdefault(there, dict(revisions["main"]))
            self.reply(409 if known else 200)
        elif parts[4:5] in (["preupload"], ["commit"]) and parts[-1] not in self.hub.repos["/".join(parts[2:4])]:
            self.reply(404, X_Error_Code="RevisionNotFound")
        elif "preupload" in parts:
            kinds = [(each["path"], "lfs" if each["path"].endswith(LARGE) else "regular") for each in values["files"]]
            files = [{"path": name, "uploadMode": kind, "shouldIgnore": False} for name, kind in kinds]
            self.reply(200, {"files": files})
        elif path.endswith("info/lfs/objects/batch"):
            self.reply(200, {"objects": [self.upload(each) for each in values["objects"]], "transfer": "basic"})
        elif "/commit/" in path:
            self.commit("/".join(parts[2:4]), parts[-1], [json.loads(line) for line in body.splitlines() if line])
        else:
            self.reply(404)

    def upload(self, each: dict[str, Any]) -> dict[str, Any]:
        return {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}

    def commit(self, repo: str, revision: str, lines: list[dict[str, Any]]) -> None:
        files = self.hub.repos[repo][revision]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = self.hub.commit_of(repo, revision)
        url = f"{self.hub.url}/{repo}/commit/{oid}"
        self.reply(200, {"commitUrl": url, "commitOid": oid, "success": True})


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub at `hub.url`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def closed_address() -> str:
    """An address at which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}"


def use_hub(monkeypatch: Any, url: str, cache: Path) -> None:
    """Let huggingface_hub use another hub, an empty cache and no token of the machine."""
    from huggingface_hub import constants

    settings: dict[str, Any] = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
    }
    settings |= {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
    settings |= {"HF_HUB_DISABLE_TELEMETRY": True, "HF_TOKEN_PATH": str(cache / "no_token")}
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
