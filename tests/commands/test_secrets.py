"""Secrets in the environment, the config and URLs are found in no byte that a run writes, says or sends to others."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hub_server import HubServer
from lodos.cli import main

PASSWORD, QUERY, ENVIRONMENT, SETTING = (f"canary{word}0123456789" for word in ("Password", "Query", "Env", "Yaml"))
CANARIES = (PASSWORD, QUERY, ENVIRONMENT, SETTING)
ROWS = "\n".join(json.dumps({"instruction": f"Say {i}", "output": f"It is {i}."}) for i in range(12))


class _Data(BaseHTTPRequestHandler):
    """Rows for whoever knows the password and the token."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(ROWS.encode())

    def _answer(self, body: bytes) -> None:
        known = base64.b64encode(f"me:{PASSWORD}".encode()).decode() in self.headers.get("Authorization", "")
        self.send_response(200 if known and QUERY in self.path else 401)
        self.send_header("Content-Length", str(len(ROWS)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def data_port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Data)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_no_canary_is_written_said_or_sent(
    make_model: Any,
    hub: HubServer,
    data_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model, _ = make_model()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LODOS_CACHE", str(tmp_path / "cache"))
    for name in ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, ENVIRONMENT)
    url = f"http://me:{PASSWORD}@127.0.0.1:{data_port}/rows.jsonl?token={QUERY}"
    (tmp_path / "in").mkdir()
    config = tmp_path / "in" / "my.yaml"
    config.write_text(
        json.dumps(
            {
                "model_name_or_path": str(model),
                "data": url,
                "hf_upload": "me/adapter",
                "lora": {"r": 2},
                "trainer": {"id": "run", "num_train_steps": 2, "train_batch_size": 4},
            }
        ),
        encoding="utf-8",
    )
    assert main(["train", str(config)]) == 0
    assert main(["train", str(config), "--trainer.api_key", SETTING]) == 1
    assert main(["data", str(config)]) == 0
    said = "".join(capfd.readouterr())
    assert "rows.jsonl" in said  # what is no secret of it is there
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != config.parent]
    assert {"config.yaml", "log.jsonl", "adapter_config.json", "README.md"} <= {path.name for path in written}
    assert hub.repositories["me/adapter"].commits
    sent = b"".join(request.path.encode() + request.body for request in hub.requests) + b"".join(hub.stored.values())
    for canary in CANARIES:
        assert canary not in said
        assert not [path for path in written if canary.encode() in path.read_bytes()]
        assert canary.encode() not in sent
        assert base64.b64encode(canary.encode()).strip(b"=") not in sent
