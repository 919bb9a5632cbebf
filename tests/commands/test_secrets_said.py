"""Secrets in places of any kind, of commands that fail: the error names what is wrong and shows none of them."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lodos import known_secrets
from lodos.cli import main
from lodos.known_secrets import hidden, remember_arguments, remember_text

CANARY = "canary0123456789ABCDEF"
HTTP = f"http://me:{CANARY}@127.0.0.1:9"
SOUND: dict[str, Any] = {"model_name_or_path": "m", "data": "rows.jsonl"}
CONFIGS: dict[str, Any] = {
    "a token as a key": {f"hf_{CANARY}": 1},
    "a URL as a key": {f"https://me:{CANARY}@host/x": 1},
    "a signed URL as a key": {"lora": {f"https://host/x?sig={CANARY}": 1}},
    "a key that there is not": {"trainer": {"api_key": CANARY, "hub_token": CANARY}},
    "a wrong type": {"trainer": {"num_train_steps": f"hf_{CANARY}"}, "lora": {"r": f"https://me:{CANARY}@host"}},
    "a key of W&B": {"trainer": {"tracker": [{"type": "wandb", "api_key": CANARY, "password": CANARY}]}},
    "a host of W&B": {"trainer": {"wandb": {"base_url": f"https://u:{CANARY}@host", "mode": f"https://u:{CANARY}@h"}}},
    "a tracker's type": {"trainer": {"tracker": {"type": f"https://u:{CANARY}@host"}}},
    "options of a store": {"data": {"path": "a.jsonl", "storage_options": {"key": CANARY, "secret": CANARY}}},
    "headers": {"data": {"path": "a.jsonl", "headers": {"Authorization": f"Bearer {CANARY}", "Cookie": f"a={CANARY}"}}},
    "data behind a password": {"data": f"{HTTP}/rows.jsonl"},
    "data behind a token": {"data": f"http://127.0.0.1:9/rows.jsonl?access_token={CANARY}"},
    "a port that is none": {"data": f"http://me:{CANARY}@127.0.0.1:99999/rows.jsonl"},
    "a host that is none": {"data": f"http://me:{CANARY}@[::1/rows.jsonl"},
    "a model behind a password": {"model_name_or_path": f"{HTTP}/m"},
    "a repository": {"hf_upload": f"https://me:{CANARY}@huggingface.co/a/b"},
    "a run's name": {"trainer": {"id": f"https://me:{CANARY}@host/x"}},
    "a run's folder": {"trainer": {"run_dir": f"{HTTP}/runs"}},
    "a template": {"chat_template": f"{HTTP}/x.jinja"},
}
YAMLS = [
    f"password: *{CANARY}", f"password: !{CANARY} x", f"password: [{CANARY}", f"? {{password: {CANARY}}}\n: 1",
    f"password: !!int {CANARY}", f"password: !!bool {CANARY}", f"api_key: {CANARY}: x", f"token: '{CANARY}\n",
    f"secret: &{CANARY} 1\nb: &{CANARY} 2", f"passwords:\n  - *{CANARY}", f"token: !<{CANARY}> x",
    f"password: {CANARY}\x00", f"auth: @{CANARY}", f"my_key: {CANARY}\nmy_key: {CANARY}", f'token: "{CANARY}\\q"',
]  # fmt: skip
LINES = [
    ["train", "--api_key", CANARY], ["train", f"--trainer.wandb.api_key={CANARY}"], ["train", f"hf_{CANARY}"],
    ["train", f"-token={CANARY}"], ["train", f"token={CANARY}"], ["train", f"--hf_{CANARY}", "1"], [f"https://m:{CANARY}@h"],
    ["train", "--trainer.tracker", f"{{type: wandb, api_key: {CANARY}"], ["data", f"{HTTP}/rows.jsonl"],
    ["train", "--lora.rank_pattern", f"{{password: !!int {CANARY}}}"], ["merge", f"{HTTP}/x", "--out", f"{HTTP}/y"],
    ["verify", f"{HTTP}/x"], ["verify", f"s3://me:{CANARY}@b/x"], ["export", f"{HTTP}/x"],
    ["doctor", "--token", CANARY], ["plan", f"{HTTP}/x.yaml"], ["generate", "--adapter", f"{HTTP}/x", "--prompt", "hi"],
    ["train", f"{HTTP}/a.yaml"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(known_secrets, "_known", set())
    return tmp_path


def _says_none(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(argv) != 0
    said = "".join(capfd.readouterr())
    assert "error: " in said
    assert CANARY not in said


def _asks_a_server(case: Any) -> bool:
    """It is asked again and again, which takes long."""
    return HTTP in json.dumps(case) or "127.0.0.1:9/" in json.dumps(case) or "s3://" in json.dumps(case)


def _long_where_a_server_is_asked(cases: Any, of: Any) -> list[Any]:
    return [pytest.param(case, marks=pytest.mark.long) if _asks_a_server(of(case)) else case for case in cases]


@pytest.mark.parametrize("name", _long_where_a_server_is_asked(CONFIGS, CONFIGS.get))
def test_of_a_config(name: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "a.json").write_text(json.dumps(SOUND | CONFIGS[name]))
    _says_none(["train", "a.json"], capfd)


@pytest.mark.parametrize("text", YAMLS)
def test_of_a_config_that_is_no_yaml(text: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "a.yaml").write_text(text)
    _says_none(["train", "a.yaml"], capfd)


@pytest.mark.parametrize("line", _long_where_a_server_is_asked(LINES, list), ids=" ".join)
def test_of_a_command_line(line: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    _says_none(line, capfd)


def test_warnings_and_tracebacks_have_none_either(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = (
        "import os, logging; from lodos.cli import set_up_process; set_up_process(); "
        f"logging.getLogger('lodos').warning('the server said %s', {CANARY!r}); raise RuntimeError({CANARY!r})"
    )
    environment = {"PATH": "/usr/bin", "MY_PASSWORD": CANARY, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "warning: the server said <hidden>" in done.stderr
    assert "RuntimeError: <hidden>" in done.stderr
    assert "line 1, in <module>" in done.stderr
    assert CANARY not in done.stderr


def test_what_is_no_secret_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    remember_text(
        "key: instruction\npad_token: <|reserved_7|>\nmax_new_tokens: 123456\nmodel: name-7b-2025\n# token: no"
    )
    remember_text("answer_key: solution of the row\nurl: https://host/a/b7?split=train1234")
    remember_arguments(["train", "my.yaml", "--trainer.num_train_steps", "100000", "--data", "hf-data/rows-2025.jsonl"])
    said = "instruction <|reserved_7|> 123456 name-7b-2025 solution https://host/a/b7?split=train1234 rows-2025.jsonl"
    assert hidden(said) == said
