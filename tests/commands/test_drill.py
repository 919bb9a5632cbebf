"""`lodos drill`: a run that is really killed comes to the same, and what parts is found and named."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lodos.commands.drill import DrillArgs, drill, report
from lodos.commands.drill_outcome import compared
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.places.manifest import seal_folder


def drill_args(args: TrainArgs, **changes: Any) -> DrillArgs:
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(TrainArgs)}
    return DrillArgs(**values, **changes)


def test_a_run_that_is_killed_comes_to_the_same(args: TrainArgs, capsys: pytest.CaptureFixture[str]) -> None:
    result = drill(drill_args(args, steps=8, kills=2, kill_seed=3))
    report(result)
    assert len(result.kills) == 2
    assert not result.parts, result.compared
    counts = {one.what: one.count for one in result.compared}
    assert counts["training losses"] == 8
    assert counts["batches, in their order"] >= 8
    assert counts["held-out losses"] == 8
    assert counts["arrays of parameters and optimizer"] > 10
    assert counts["files of adapters and models"] > 8
    assert not list(Path(args.trainer.run_dir).iterdir())
    assert "bit for bit" in capsys.readouterr().out


def test_a_run_that_ends_by_itself_is_no_success(args: TrainArgs) -> None:
    broken = dataclasses.replace(args, data=f"{args.data}.gone")
    with pytest.raises(UserError, match=r"exit code 1[\s\S]*rows\.json\.gone"):
        drill(drill_args(broken, steps=4, kills=1))


def test_what_cannot_be_drilled_is_refused_at_once(args: TrainArgs) -> None:
    with pytest.raises(UserError, match=r"steps: 1 must be at least 2.\nkills: 0 must be at least 1"):
        drill_args(args, steps=1, kills=0)


def outcome(folder: Path) -> Path:
    """As a run of two steps leaves it, of which the second was begun twice."""
    export = folder / "run" / "peft" / "step-2"
    export.mkdir(parents=True)
    (export / "adapter_model.safetensors").write_bytes(b"weights")
    (export / "README.md").write_text("written at noon", encoding="utf-8")
    steps = [{"step": step, "train/loss": 1 / step, "train/grad_norm": 1.0, "eval/loss": 2.0} for step in (1, 2)]
    (folder / "run" / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in steps), encoding="utf-8")
    seen = [{"step": step, "batch": f"b{step}", "bits": f"r{step}", "at": 1.0} for step in (1, 2, 2)]
    (folder / "trace.jsonl").write_text("".join(json.dumps(one) + "\n" for one in seen), encoding="utf-8")
    checkpoint = folder / "run" / "train_state" / "2"
    checkpoint.mkdir(parents=True)
    array = {"shape": [2], "dtype": "float32", "sha256": "0" * 64}
    seal_folder(checkpoint, {"arrays": {"trainable/q_proj": array}})
    return folder


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text[::-1].replace(old[::-1], new[::-1], 1)[::-1], encoding="utf-8")  # the last one

    return change


def other_array(folder: Path) -> None:
    checkpoint = folder / "run" / "train_state" / "2"
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    array = {"shape": [2], "dtype": "float32", "sha256": "1" * 64}
    seal_folder(checkpoint, {"arrays": {"trainable/q_proj": array}})


@pytest.mark.parametrize(
    ("change", "what", "where"),
    [
        (replaced("trace.jsonl", '"b2"', '"b9"'), "batches, in their order", "from step 2 on; 1 steps"),
        (replaced("trace.jsonl", '"r2"', '"r9"'), "random bits of steps", "from step 2 on; 1 steps"),
        (
            replaced("run/log.jsonl", "0.5", "0.50000001"),
            "training losses",
            "from step 2 on: 0.5 undisturbed, 0.50000001",
        ),
        (replaced("run/log.jsonl", '"eval/loss": 2.0', '"x": 0'), "held-out losses", "2 undisturbed, 1 in the log"),
        (replaced("run/log.jsonl", '"step": 2', '"step": 1'), "training losses", "from step 2 on"),
        (other_array, "arrays of parameters and optimizer", "step 2: trainable/q_proj differs"),
        (
            lambda folder: (folder / "run/peft/step-2/adapter_model.safetensors").write_bytes(b"weightz"),
            "files of adapters and models",
            "adapter_model.safetensors differs",
        ),
        (
            lambda folder: shutil.rmtree(folder / "run/peft/step-2"),
            "files of adapters and models",
            "adapter_model.safetensors is missing",
        ),
    ],
)
def test_where_two_runs_part_is_named(change: Callable[[Path], Any], what: str, where: str, tmp_path: Path) -> None:
    straight, killed = outcome(tmp_path / "straight"), outcome(tmp_path / "killed")
    runs = (straight / "run", killed / "run", (straight / "trace.jsonl", killed / "trace.jsonl"))
    (killed / "run/peft/step-2/README.md").write_text("written at one", encoding="utf-8")
    assert not any(one.parts for one in compared(*runs))
    change(killed)
    parting = {one.what: one.parts for one in compared(*runs) if one.parts}
    assert where in (parting.get(what) or "")
