"""The tables are those of the cells that were compiled, and the cells in the repository can be read."""

import dataclasses
import json

import pytest
from bench.plan_table import MODELS, RESULTS, TARGETS, Cell, main, tables

from lodos.plan.accelerators import accelerators_of

GIB = 1 << 30
CELL = Cell("dots", 2, 4, GIB // 2, 13 * GIB, 16 * GIB, True, 49 * GIB, True, "libtpu 1", 60.0)


def test_a_cell_that_does_not_fit_and_one_that_was_not_compiled_are_told_apart() -> None:
    too_large = dataclasses.replace(CELL, needed=24 * GIB, fits=False, moved_is_compiled=False)
    said = tables({"llama-2-7b v3-32": CELL, "llama-2-7b v4-32": too_large})
    of_7b = [line for line in said.splitlines() if line.startswith("| llama-2-7b |")]
    assert [line.split(" | ")[1:4] for line in of_7b] == [
        ["13.0", "**24.0**", "-"],
        ["2 of 4, dots", "2 of 4, dots", "-"],
        ["49.0", "49.0*", "-"],
    ]


def test_what_is_kept_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--print"])
    said = capsys.readouterr().out
    kept = json.loads(RESULTS.read_text("utf-8"))
    for name, fields in kept.items():
        model, target = name.split()
        cell = Cell(**fields)
        assert model in MODELS
        assert target in TARGETS
        assert cell.memory == accelerators_of(target).memory_bytes
        assert cell.fits == (cell.needed <= cell.memory)
        assert f"{cell.rows} of {cell.share}, {cell.checkpointing}" in said
