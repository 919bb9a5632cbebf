"""A hub in a thread: the part of its HTTP protocol that uploading needs, kept in memory.

POST /api/repos/create                           makes a repository, or 409
GET  /api/models/<repo>                          whether it is private, and its files
POST /api/validate-yaml                          whether a card's metadata can be taken
POST /api/models/<repo>/preupload/main           which files go by LFS
POST /<repo>.git/info/lfs/objects/batch          where they go
PUT  /lfs/<oid>?signature=...                    the bytes, without a token, as to a bucket
POST /api/models/<repo>/commit/main              NDJSON: all files of a commit at once
"""

import base64
import dataclasses
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_canaryCanaryCanaryCanaryCanary"
SIGNATURE = "signature-of-a-bucket"
_OF_A_REPOSITORY = re.compile(r"/(?:api/models/)?([\w.-]+/[\w.-]+?)(\.git/info/lfs/objects/batch|/\w+/main|)")


@dataclasses.dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    commits: list[tuple[str, list[str]]] = dataclasses.field(default_factory=list)
    """The message of each, and the files that it holds."""


@dataclasses.dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    """By their names in small letters."""
    body: bytes


class HubServer:
    """The hub; a context manager. `owner` is whom the token belongs to."""

    def __init__(self, owner: str = "me") -> None:
        self.owner = owner
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.stored: dict[str, bytes] = {}
        self.open = threading.Event()
        """Cleared, bytes wait for it before they are stored."""
        self.open.set()
        self.receiving = threading.Event()
        """Set when bytes arrive."""
        self.refused_commits: list[tuple[int, str]] = []
        """Answers, status and text, to the next commits."""
        self.broken = False
        """Whether it answers 500 to everything."""
        self.stalled = False
        """Whether it takes requests and never answers."""

    def __enter__(self) -> "HubServer":
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()

    def die(self) -> None:
        """Refuses whoever comes from now on."""
        self._server.shutdown()
        self._server.server_close()

    def asked(self, method: str, pattern: str) -> list[Request]:
        return [one for one in self.requests if one.method == method and re.search(pattern, one.path)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle("GET")

    def do_HEAD(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def _handle(self, method: str) -> None:
        hub = self.server_hub
        body = self._body()
        hub.requests.append(Request(method, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        if hub.stalled:
            threading.Event().wait()
        if hub.broken:
            return self._answer(500, {"error": "something went wrong here"})
        if method == "PUT" and (match := re.fullmatch(rf"/lfs/(\w+)\?signature={SIGNATURE}", self.path)):
            hub.receiving.set()
            hub.open.wait()
            if hashlib.sha256(body).hexdigest() != match[1]:
                return self._answer(400, {"error": "these are not the bytes that were announced"})
            hub.stored[match[1]] = body
            return self._answer(200, {})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/validate-yaml":
            problems = _card_problems(json.loads(body)["content"])
            return self._answer(
                400 if problems else 200, {"errors": [{"message": one} for one in problems], "warnings": []}
            )
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(
            r"/(?:api/models/)?([\w.-]+/[\w.-]+?)(\.git/info/lfs/objects/batch|/\w+/main|)", self.path
        ):
            name, action = match.groups()
            if name not in hub.repositories:
                return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            repository = hub.repositories[name]
            match action:
                case "":
                    return self._answer(200, self._info(name, repository))
                case "/preupload/main":
                    return self._answer(200, self._modes(json.loads(body)))
                case ".git/info/lfs/objects/batch":
                    return self._answer(200, self._places(json.loads(body)))
                case "/commit/main":
                    return self._commit(name, repository, [json.loads(line) for line in body.splitlines()])
        return self._answer(404, {"error": f"no such address: {method} {self.path}"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        more = {"X-Error-Message": value["error"]} if "error" in value else {}
        for name, text in {"Content-Type": "application/json", **more, **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _create(self, asked: dict[str, Any]) -> None:
        hub = self.server_hub
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != hub.owner:
            return self._answer(403, {"error": f"You don't have the rights to create a model under {name}"})
        if name in hub.repositories:
            return self._answer(409, {"error": "You already created this model repo", "url": f"{hub.endpoint}/{name}"})
        hub.repositories[name] = Repository(private=asked.get("visibility") == "private" or asked.get("private", False))
        return self._answer(200, {"url": f"{hub.endpoint}/{name}", "id": name})

    def _info(self, name: str, repository: Repository) -> dict[str, Any]:
        siblings = [{"rfilename": file} for file in (".gitattributes", *repository.files)]
        return {"id": name, "sha": "0" * 40, "private": repository.private, "siblings": siblings, "tags": []}

    def _modes(self, asked: dict[str, Any]) -> dict[str, Any]:
        def mode(path: str) -> str:
            return "lfs" if path.endswith((".safetensors", "tokenizer.json")) else "regular"

        files = [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in asked["files"]]
        return {"files": files}

    def _places(self, asked: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.server_hub.endpoint}/lfs/{{}}?signature={SIGNATURE}"
        objects = [
            {**one, "actions": {"upload": {"href": href.format(one["oid"])}}}
            if one["oid"] not in self.server_hub.stored
            else one
            for one in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, repository: Repository, lines: list[dict[str, Any]]) -> None:
        hub = self.server_hub
        if hub.refused_commits:
            status, text = hub.refused_commits.pop(0)
            return self._answer(status, {"error": text})
        files = dict(repository.files)
        (header,) = [line["value"] for line in lines if line["key"] == "header"]
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    if value["oid"] not in hub.stored:
                        return self._answer(400, {"error": f"{value['path']}: its bytes were never sent"})
                    files[value["path"]] = hub.stored[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        repository.files = files
        repository.commits.append((header["summary"], sorted(files)))
        oid = f"{len(repository.commits):040x}"
        return self._answer(
            200, {"commitUrl": f"{hub.endpoint}/{name}/commit/{oid}", "commitOid": oid, "success": True}
        )


def _card_problems(card: str) -> list[str]:
    """What the hub would refuse of a card's metadata."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    metadata = yaml.safe_load(match[1]) if match else {}
    problems = []
    for key in ("base_model", "datasets"):
        names = metadata.get(key, [])
        problems += [
            f'"{key}" with value "{name}" is not valid. Use a model id from the hub.'
            for name in ([names] if isinstance(names, str) else names)
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", name)
        ]
    if not all(isinstance(tag, str) for tag in metadata.get("tags", [])):
        problems.append('"tags" must be an array of strings')
    return problems
