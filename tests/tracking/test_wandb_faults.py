"""A W&B server that fails, in every way and at every time: a run waits ten seconds at most, and keeps its numbers."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import wandb_files

STEPS = 20
FAULTS = ["none", "answers 500", "stalls", "stalls from the start", "answers 500 from the start", "dies", "refuses"]

# One process for all of them: to start one of wandb's takes longer than what is looked at.
PROGRAM = """
import json, logging, os, sys, time
from pathlib import Path
from wandb_server import WandbServer
from lodos.tracking.config import parse_trackers
from lodos.tracking.external import open_trackers
from lodos.tracking.tracker import TrackedRun

folder, faults = Path(sys.argv[1]), sys.argv[2:]
said = []
class Keeps(logging.Handler):
    def emit(self, record): said.append(record.getMessage())
logging.getLogger("lodos").addHandler(Keeps())

with WandbServer() as server:
    os.environ["WANDB_BASE_URL"] = server.url
    import wandb
    wandb.setup()
    for number, fault in enumerate(faults):
        said.clear(), server.history.clear()
        server.stalled, server.broken = fault == "stalls from the start", fault == "answers 500 from the start"
        here = folder / str(number)
        here.mkdir()
        began = time.monotonic()
        tracker, = open_trackers(parse_trackers({"project": "p"}, None), TrackedRun(f"r{number}", here, 0))
        waited = time.monotonic() - began
        for step in range(1, 21):
            began = time.monotonic()
            tracker.log({"train/loss": 1 / step}, step=step)
            waited += time.monotonic() - began
            time.sleep(0.02)
            if step == 10:
                server.stalled, server.broken = server.stalled or fault == "stalls", server.broken or "500" in fault
                if fault == "dies":
                    server.die()
        began = time.monotonic()
        tracker.finish()
        waited += time.monotonic() - began
        print(json.dumps({"fault": fault, "waited": waited, "said": said, "history": server.history}), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("wandb")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WANDB_")},
        "WANDB_API_KEY": "k" * 40,
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), *FAULTS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    assert process.returncode == 0, process.stderr
    return {line["fault"]: line for line in lines}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_waits_for_ten_seconds_at_most(outcomes: dict[str, Any], fault: str) -> None:
    assert outcomes[fault]["waited"] < 10 + 3  # the machine's own, to start wandb's process


@pytest.mark.parametrize("fault", FAULTS[1:])
def test_what_was_not_sent_is_kept_and_the_command_is_said(outcomes: dict[str, Any], fault: str) -> None:
    said = outcomes[fault]["said"]
    *_, command = said[-1].partition("By hand: ")
    wandb, sync, folder = shlex.split(command)
    assert (wandb, sync) == ("wandb", "sync")
    (file,) = Path(folder).glob("*.wandb")
    assert [row["train/loss"] for row in wandb_files.history(file)] == pytest.approx(
        [1 / k for k in range(1, STEPS + 1)]
    )


def test_a_server_that_answers_gets_everything_and_nothing_is_said(outcomes: dict[str, Any]) -> None:
    assert outcomes["none"]["said"] == []
    assert [row["train/loss"] for row in outcomes["none"]["history"]] == pytest.approx(
        [1 / step for step in range(1, STEPS + 1)]
    )
