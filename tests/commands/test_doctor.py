"""`lodos doctor` tells meshes that compute the same from those that do not."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lodos.commands.doctor import Course, main, report


def course(name: str, **changes: Any) -> Course:
    factors = {"layers.lora_A": np.ones(4, np.float32), "layers.lora_B": np.arange(4, dtype=np.float32)}
    return dataclasses.replace(Course(name, [2.0, 1.5], [0.5, 0.25], factors), **changes)


def shown(*courses: Course) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), width=120)
    agrees = report(courses, 1e-4, console)
    assert isinstance(console.file, io.StringIO)
    return agrees, console.file.getvalue()


def test_rounding_is_no_difference() -> None:
    agrees, text = shown(course("one device"), course("mesh of 8", losses=[2.0, 1.50001]))
    assert agrees
    assert "They agree to 1e-04." in text


@pytest.mark.parametrize(
    "changes",
    [
        {"losses": [2.0, 1.6]},
        {"grad_norms": [0.5, 0.3]},
        {"losses": [2.0, float("nan")]},
    ],
)
def test_the_step_is_named_at_which_they_part(changes: dict[str, Any]) -> None:
    agrees, text = shown(course("one device"), course("mesh of 8", **changes), course("in another order"))
    assert not agrees
    assert "mesh of 8: parts from one device at step 2" in text
    assert "in another order: parts" not in text


def test_what_differs_most_is_named() -> None:
    factors = {**course("").trained, "layers.lora_B": np.arange(4, dtype=np.float32) * 1.5}
    _, text = shown(course("one device"), course("mesh of 8", trained=factors))
    assert "layers.lora_B differs most, by 5.0e-01" in text


@pytest.mark.parametrize(
    "flags", [["--trainer.model_axis_size", "2"], pytest.param([], marks=pytest.mark.long)], ids=["tensor", "fsdp"]
)
def test_fsdp_and_tensor_parallelism_agree_with_one_device(flags: list[str], make_model: Any, tmp_path: Path) -> None:
    folder, _ = make_model(max_position_embeddings=256)
    rows = [{"instruction": f"Say {word}.", "output": word * 3} for word in "abcdefghijklmnop"]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [sys.executable, "-m", "lodos", "doctor", "--model_name_or_path", str(folder), "--data", str(data)]
    command += ["--max_tune_length", "128", "--trainer.train_batch_size", "4", "--lora.dropout", "0.1", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**environment, "COLUMNS": "120"}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "They agree to 1e-04." in done.stdout
    assert not (tmp_path / "runs").exists()


def test_one_device_alone_has_nothing_to_be_compared_with(capsys: pytest.CaptureFixture[str]) -> None:
    from lodos.errors import UserError

    with pytest.raises(UserError, match="There is one device"):
        main(["--model_name_or_path", "m", "--data", "d"])
