"""A training on two workers that is preempted again and again ends as one that is not; a mistake ends it at once."""

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_stand_in import Cloud, wait_for

STEPS = 16

HELD = """
import os, sys, time
from pathlib import Path
from lodos.cli import main
from lodos.train.trainer import Trainer

folder, steps = Path(sys.argv[1]), sys.argv[2].split(",")
train_step = Trainer.train_step

def held(trainer, state, batch):
    step = str(int(state.step))
    if step in steps and not (folder / f"passed-{step}").exists():
        (folder / f"at-{step}-{os.environ['JAX_PROCESS_ID']}").touch()
        time.sleep(600)
    return train_step(trainer, state, batch)

Trainer.train_step = held
sys.exit(main(sys.argv[3:]))
"""
"""`lodos`, which waits for its end after the steps named, once each."""


@pytest.fixture
def job(cloud: Cloud, make_model: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`job(*flags)`: a training whose two workers find each other over loopback; held, it waits after these steps."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}"}
    environment["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    # The homes of the workers go with each VM, and a pod's disk of its own would be compiled on anew.
    environment["LODOS_CACHE"] = str(cloud.folder / "cache")
    monkeypatch.setenv("STAND_IN_ENVIRONMENT", json.dumps(environment))
    folder, _ = make_model(num_hidden_layers=1)
    rows = [{"instruction": f"Say {word}.", "output": word * 3} for word in "abcdefghijklmnop"]
    data = cloud.folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    (cloud.folder / "held.py").write_text(HELD, encoding="utf-8")

    def command(*flags: str, held: tuple[int, ...] = ()) -> list[str]:
        given = {
            "model_name_or_path": folder,
            "data": data,
            "max_tune_length": 64,
            "packing": "true",
            "trainer.train_batch_size": 4,
            "trainer.num_train_steps": STEPS,
            "trainer.run_dir": cloud.folder / "runs",
            "trainer.checkpointer.save_interval": 1,
        }
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        steps = ",".join(map(str, held))
        return [sys.executable, str(cloud.folder / "held.py"), str(cloud.folder), steps, "train", *words, *flags]

    return command


def steps_of(log: Path) -> int:
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return max((json.loads(line).get("step", 0) for line in lines if line.endswith("}")), default=0)


@pytest.mark.parametrize("preempted_at", [(3,), pytest.param((3, 7, 11), marks=pytest.mark.long)], ids=len)
def test_a_preempted_training_ends_as_an_undisturbed_one(
    preempted_at: tuple[int, ...], cloud: Cloud, job: Callable[..., list[str]]
) -> None:
    code, output = cloud.run("RUN_ID=undisturbed", *job())
    assert code == 0, output
    runs = cloud.folder / "runs"
    with cloud.start(*job(held=preempted_at), flags=("--retries", "0")) as process:
        for step in preempted_at:
            for worker in (0, 1):
                at = cloud.folder / f"at-{step}-{worker}"
                wait_for(lambda at=at: at.exists() or process.poll() is not None)
            (cloud.folder / f"passed-{step}").touch()
            cloud.preempt()
        output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert output.count("the VM was taken away") == len(preempted_at)
    files = [runs / run / "peft" / f"step-{STEPS}" / "adapter_model.safetensors" for run in ("undisturbed", "llama-32")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert steps_of(runs / "llama-32" / "log.jsonl") == STEPS


def test_a_typo_ends_it_at_once(cloud: Cloud, job: Callable[..., list[str]]) -> None:
    code, output = cloud.run(*job("--lora.rank", "8"))
    assert code == 1
    assert "lora.rank" in output
    assert output.count("running on 2 workers") == 1
