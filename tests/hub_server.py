"""A Hub in memory on a free port: what huggingface_hub asks when it writes and reads repositories of models."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_local"  # whoever shows it may write, and read what is private


@dataclass
class Repository:
    """Files of each commit by path, and the commit to which each branch points."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)  # large files by their SHA-256, before the commit

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        content = b"".join(path.encode() + hashlib.sha256(data).digest() for path, data in sorted(files.items()))
        sha = hashlib.sha1(content + str(len(self.commits)).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]

    def resolve(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None


class Hub(ThreadingHTTPServer):
    """`repositories` by id; `requests`, every one answered: (method, path, status)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, int]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, cache: str) -> dict[str, str]:
        """Variables with which another process reads from and writes to this Hub, and keeps nothing outside `cache`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # large files by plain HTTP
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": cache,
        }


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._read_chunks()
        path = unquote(urlsplit(self.path).path)
        for method, pattern, action in ROUTES:
            if match := method == self.command.replace("HEAD", "GET") and re.fullmatch(pattern, path):
                return action(self, *match.groups())
        self._send(404, {"error": f"This Hub does not know {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _read_chunks(self) -> bytes:
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, status: int, content: dict | list | bytes, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.server.requests.append((self.command, self.path, status))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_) -> None:  # the requests are kept instead
        pass

    # Writing

    def create(self) -> None:
        if not self._may_write():
            return
        asked = json.loads(self.body)
        repo_id = "/".join(filter(None, (asked.get("organization") or "me", asked["name"])))
        exists = repo_id in self.server.repositories
        if not exists:
            self.server.repositories[repo_id] = repository = Repository(asked.get("visibility") == "private")
            repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self._send(409 if exists else 200, {"url": f"{self.server.endpoint}/{repo_id}", "name": repo_id})

    def branch(self, repo_id: str, name: str) -> None:
        if self._may_write() and (repository := self._repository(repo_id)):
            if name in repository.branches:
                return self._send(409, {"error": "Reference already exists"})
            repository.branches[name] = repository.branches["main"]
            self._send(200, {})

    def validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        errors = [] if content.startswith("---\n") else [{"message": "A model card begins with metadata."}]
        self._send(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, repo_id: str, revision: str) -> None:
        if self._may_write() and (repository := self._repository(repo_id)):
            there = repository.files(revision)
            answer = []
            for path in (file["path"] for file in json.loads(self.body)["files"]):
                is_large, data = path.endswith(".safetensors"), there.get(path)
                oid = None if data is None else hashlib.sha256(data).hexdigest() if is_large else _git_oid(data)
                mode = "lfs" if is_large else "regular"
                answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._send(200, {"files": answer})

    def large_files(self, repo_id: str) -> None:
        if self._may_write() and (repository := self._repository(repo_id)):
            objects = []
            for wanted in json.loads(self.body)["objects"]:
                action = {"href": f"{self.server.endpoint}/upload/{repo_id}/{wanted['oid']}"}
                known = wanted["oid"] in repository.uploads
                objects.append({**wanted, **({} if known else {"actions": {"upload": action}})})
            self._send(200, {"transfer": "basic", "objects": objects})

    def upload(self, repo_id: str, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._send(400, {"error": "The file is not the one announced."})
        self.server.repositories[repo_id].uploads[oid] = self.body
        self._send(200, b"")

    def commit(self, repo_id: str, branch: str) -> None:
        if not self._may_write() or not (repository := self._repository(repo_id)):
            return
        files = dict(repository.files(branch))
        for line in self.body.splitlines():
            change = json.loads(line)
            value = change["value"]
            match change["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = repository.uploads[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        sha = repository.commit(branch, files)
        url = f"{self.server.endpoint}/{repo_id}/commit/{sha}"
        self._send(200, {"success": True, "commitOid": sha, "commitUrl": url})

    # Reading

    def whoami(self) -> None:
        self._send(200, {"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token"}})

    def info(self, repo_id: str, revision: str | None) -> None:
        if found := self._files(repo_id, revision or "main"):
            sha, files = found
            siblings = [{"rfilename": path} for path in files]
            private = self.server.repositories[repo_id].private
            self._send(200, {"id": repo_id, "sha": sha, "private": private, "siblings": siblings, "tags": []})

    def tree(self, repo_id: str, revision: str, folder: str | None) -> None:
        if found := self._files(repo_id, revision):
            folder = f"{folder}/" if folder else ""
            inside = {path: data for path, data in found[1].items() if path.startswith(folder)}
            if folder and not inside:
                return self._send(404, {"error": "no such folder"}, {"X-Error-Code": "EntryNotFound"})
            self._send(
                200,
                [
                    {"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)}
                    for path, data in inside.items()
                ],
            )

    def file(self, repo_id: str, revision: str, path: str) -> None:
        if found := self._files(repo_id, revision):
            sha, files = found
            if path not in files:
                headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}
                return self._send(404, {"error": "Entry not found"}, headers)
            etag = hashlib.sha256(files[path]).hexdigest()
            self._send(200, files[path], {"X-Repo-Commit": sha, "ETag": f'"{etag}"'})

    # What several of them need

    def _may_write(self) -> bool:
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not allowed:
            self._send(401, {"error": "Invalid token."})
        return allowed

    def _repository(self, repo_id: str) -> Repository | None:
        repository = self.server.repositories.get(repo_id)
        shown = repository and (not repository.private or self.headers.get("Authorization") == f"Bearer {TOKEN}")
        if not shown:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return repository if shown else None

    def _files(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if (repository := self._repository(repo_id)) is None:
            return None
        if (sha := repository.resolve(revision)) is None:
            self._send(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return sha, repository.commits[sha]


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


_ID = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", f"/api/models/{_ID}/branch/(.+)", _Handler.branch),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", f"/api/models/{_ID}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", _Handler.large_files),
    ("PUT", f"/upload/{_ID}/(.+)", _Handler.upload),
    ("POST", f"/api/models/{_ID}/commit/(.+)", _Handler.commit),
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("GET", f"/api/models/{_ID}(?:/revision/(.+))?", _Handler.info),
    ("GET", f"/api/models/{_ID}/tree/([^/]+)(?:/(.+))?", _Handler.tree),
    ("GET", f"/{_ID}/resolve/([^/]+)/(.+)", _Handler.file),
]
