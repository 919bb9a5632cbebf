"""TPU VMs that are folders here, and babysitters of them: the stand-in for gcloud in `infra/bin/`."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
GCLOUD = Path(__file__).parent / "infra" / "bin" / "gcloud"


class Cloud:
    """VMs of the stand-in, and babysitters of them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setenv("STAND_IN", str(folder))
        monkeypatch.setenv("PATH", f"{GCLOUD.parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("BABYSIT_SECONDS_BETWEEN_LOOKS", "0.1")
        monkeypatch.setenv("PYTHON", sys.executable)
        (folder / "setup.sh").write_text("echo set up by $0 >>setup.log\n", encoding="utf-8")

    def start(self, *command: str, flags: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        line = ["bash", str(ROOT / "infra" / "babysit-tpu-vm.sh"), "llama-32", "-z", "us-east1-d", "-t", "v3-32"]
        line += ["-s", str(self.folder / "setup.sh"), *flags, "--", *command]
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(line, text=True, **pipes)

    def run(self, *command: str, flags: tuple[str, ...] = ()) -> tuple[int, str]:
        with self.start(*command, flags=flags) as process:
            output, _ = process.communicate(timeout=600)
        return process.returncode, output

    def calls(self, verb: str) -> list[list[str]]:
        calls = [json.loads(line) for line in (self.folder / "calls.log").read_text().splitlines()]
        return [call for call in calls if call[3] == verb]

    def preempt(self) -> None:
        subprocess.run([str(GCLOUD), "preempt", "llama-32"], check=True)


def reached(path: Path, step: int) -> Callable[[], bool]:
    return lambda: path.exists() and int(path.read_text() or 0) >= step


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
