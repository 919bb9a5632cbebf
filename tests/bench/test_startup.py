"""A start has its phases."""

from pathlib import Path
from typing import Any

import pytest
from bench.data import write_rows
from bench.startup import COLUMNS, print_starts, start


def test_a_start_is_its_phases(make_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = make_model(max_position_embeddings=2048)
    write_rows(tmp_path / "rows.jsonl", 20)
    arguments = ["--model_name_or_path", str(folder), "--data", str(tmp_path / "rows.jsonl")]
    arguments += ["--trainer.train_batch_size", "2"]
    found = start(arguments, tmp_path / "run", tmp_path / "cache")
    assert found["to the first step"] == pytest.approx(found["loaded"] + found["first step"])
    assert found["to the first step"] > found["imports"] > 0
    assert found["XLA"] > 0
    assert found["first step"] > found["a step"] > 0
    assert list((tmp_path / "cache").iterdir())

    print_starts({"cold": [found], "warm": [found, found]})
    table = capsys.readouterr().out
    assert all(column in table for column in COLUMNS)
    assert "\nwarm" in table
