"""What is foretold of memory is what a training on this machine's CPU then takes."""

from pathlib import Path
from typing import Any

import pytest
from bench.plan_memory import planned_and_trained

WIDE: dict[str, Any] = dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=6)


@pytest.mark.parametrize(
    ("checkpointing", "rows", "at_once", "r"),
    [
        ("none", 8, -1, 8),
        pytest.param("dots", 16, -1, 8, marks=pytest.mark.long),
        pytest.param("none", 16, 8, 64, marks=pytest.mark.long),
    ],
)
def test_a_training_takes_what_was_planned(
    checkpointing: str, rows: int, at_once: int, r: int, make_model: Any, tmp_path: Path
) -> None:
    folder, _ = make_model(**WIDE)
    setting = {"rows": rows, "length": 512, "checkpointing": checkpointing, "r": r, "at_once": at_once}
    planned, measured = planned_and_trained({**setting, "model": str(folder)}, tmp_path)
    assert planned > 400e6  # beside it what a process takes anyway is little
    assert measured == pytest.approx(planned, rel=0.15), (planned, measured)
