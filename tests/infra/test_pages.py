"""What the pages say of `infra/`: the options there are, and the tutorial's line as it stands there."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloud_stand_in import ROOT, Cloud


def test_the_page_has_every_option_of_the_babysitter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "infra")
    import babysit_tpu_vm

    with pytest.raises(SystemExit):
        babysit_tpu_vm.parse(["--help"])
    options = set(re.findall(r"^  (?:-\w, )?.*?(--\w+)", capsys.readouterr().out, re.MULTILINE))
    page = (ROOT / "docs" / "from-laptop-to-pod.md").read_text(encoding="utf-8")
    table = page[page.index("| option | |") :].split("\n\n")[0]
    assert set(re.findall(r"`(--\w+)`", table)) == options - {"--help"}


def test_the_tutorials_line_runs_as_it_stands_there(
    make_model: Any, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stand-in's worker with this repository in its home; a tiny model, and a folder as the bucket."""
    tutorial = (ROOT / "docs" / "tutorial-alpaca-lora.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^infra/babysit-tpu-vm.sh .*$", tutorial, re.MULTILINE)
    folder, _ = make_model(max_position_embeddings=512)
    rows = [{"instruction": f"Say {word}.", "output": word * 3} for word in "abcdefgh"]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    python = f"printf '#!/bin/sh\\nexec {sys.executable} \"$@\"\\n' >venv/bin/python; chmod +x venv/bin/python"
    (cloud.folder / "setup.sh").write_text(f"mkdir -p venv/bin; {python}; ln -s {ROOT} lodos\n", encoding="utf-8")
    monkeypatch.setenv("STAND_IN_WORKERS", "1")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    kept = ("LODOS_CACHE", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {"JAX_NUM_PROCESSES": "1", "JAX_COORDINATOR_ADDRESS": address}
    monkeypatch.setenv("STAND_IN_ENVIRONMENT", json.dumps(environment | {name: os.environ[name] for name in kept}))
    monkeypatch.setenv("WANDB_API_KEY", "a-canary")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_a-canary")

    tiny = {"model_name_or_path": folder, "data": tmp_path / "rows.json", "trainer.num_train_steps": 2}
    tiny |= {"trainer.train_batch_size": 4, "max_tune_length": 512}
    line = line.replace(" -- ", f" -s {cloud.folder}/setup.sh -- ").replace("gs://my-bucket", str(tmp_path / "bucket"))
    line += "".join(f" --{name} {shlex.quote(str(value))}" for name, value in tiny.items())
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a-canary" not in done.stdout + done.stderr
    assert list((tmp_path / "bucket" / "adapters").glob("llama-32/step-2/adapter_model.safetensors"))
    assert list((tmp_path / "bucket" / "checkpoints").glob("llama-32/2"))
    assert "[babysit" in done.stderr
    assert "deleting llama-32" in done.stderr
