"""A W&B server in a thread: the part of its HTTP protocol that logging numbers needs.

POST /graphql                                    UpsertBucket makes or finds a run, CreateRunFiles says where files go
POST /files/<entity>/<project>/<run>/file_stream numbers, as the lines of wandb-history.jsonl
PUT  /upload/...                                 files
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """The server; a context manager."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        """The numbers it was sent."""
        self.bodies: list[bytes] = []
        """Everything it was sent, with addresses and headers."""
        self.broken = False
        """Whether it answers 500 to everything."""
        self.stalled = False
        """Whether it takes requests and never answers."""

    def __enter__(self) -> "WandbServer":
        server = self

        class Handler(_Handler):
            state = server

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """Refuses whoever comes from now on."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: WandbServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.bodies.append(f"{self.path}\n{self.headers}\n".encode() + body)
        if self.state.stalled:
            threading.Event().wait()
        if self.state.broken:
            return self._answer(500, {"error": "something went wrong here"})
        if self.path.endswith("/graphql"):
            return self._answer(200, {"data": self._data(json.loads(body))})
        if self.path.endswith("/file_stream"):
            chunk = json.loads(body).get("files", {}).get("wandb-history.jsonl", {})
            self.state.history += [json.loads(line) for line in chunk.get("content", [])]
        return self._answer(200, {})

    def _data(self, asked: dict[str, Any]) -> dict[str, Any]:
        variables = asked.get("variables") or {}
        if "upsertBucket" in asked["query"]:
            project = {"id": "p", "name": "lodos", "entity": {"id": "e", "name": "me"}}
            run = {"id": "b", "name": variables.get("name"), "displayName": "r", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": {**run, "historyLineCount": 0}, "inserted": True}}
        if "createRunFiles" in asked["query"]:
            files = [{"name": n, "uploadUrl": f"{self.state.url}/upload/{n}"} for n in variables.get("files", [])]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
