"""Every example is in one row, rows are never too long, and little of them is filler."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodos.data.batching.batches import positions_needed
from lodos.data.batching.packing import RowPlan, pack
from lodos.data.config import DataArgs
from lodos.data.prepare import prepare
from lodos.errors import UserError

LENGTHS = st.lists(st.integers(0, 30), max_size=60)


def rows_of(plan: RowPlan, lengths: np.ndarray) -> list[list[int]]:
    """The lengths that stand in each row."""
    return [lengths[row].tolist() for row in plan]


def best_fit_decreasing(lengths: list[int], seq_len: int) -> list[int]:
    """What each row holds, by the definition: one example at a time."""
    filled: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, used in enumerate(filled) if used + length <= seq_len]
        if not fitting:
            filled.append(0)
            fitting = [len(filled) - 1]
        filled[max(fitting, key=lambda row: filled[row])] += length
    return filled


def test_rows_by_hand() -> None:
    lengths = np.array([2, 6, 3, 2, 7, 3, 6, 2])
    assert sorted(rows_of(pack(lengths, 10, seed=0), lengths)) == [[2], [6, 2, 2], [6, 3], [7, 3]]


@given(lengths=LENGTHS, seq_len=st.integers(30, 50), seed=st.integers(0, 3))
def test_every_example_is_in_one_row_and_no_row_is_too_long(lengths: list[int], seq_len: int, seed: int) -> None:
    array = np.array(lengths, int)
    plan = pack(array, seq_len, seed)
    rows = rows_of(plan, array)
    assert sorted(plan.indices.tolist()) == list(range(len(lengths)))
    assert all(rows)
    assert plan.row_lengths(array).tolist() == [sum(row) for row in rows]
    assert all(sum(row) <= seq_len for row in rows)
    assert plan.efficiency(array, seq_len) == (sum(lengths) / (len(rows) * seq_len) if rows else 1.0)


@given(lengths=st.lists(st.integers(1, 30), max_size=60), seq_len=st.integers(30, 50))
def test_placing_by_the_group_is_best_fit_decreasing(lengths: list[int], seq_len: int) -> None:
    array = np.array(lengths, int)
    filled = pack(array, seq_len, seed=0).row_lengths(array)
    assert sorted(filled.tolist()) == sorted(best_fit_decreasing(lengths, seq_len))


def test_the_plan_is_a_function_of_lengths_and_seed() -> None:
    # A run saved with one version must resume with the same rows in the next.
    lengths = np.array([3, 3, 3, 3, 5, 5, 2, 1])
    plan = pack(lengths, 8, seed=1)
    assert plan.indices.tolist() == [4, 2, 5, 0, 3, 1, 6, 7]
    assert plan.offsets.tolist() == [0, 2, 4, 7, 8]
    plans = {str(pack(lengths, 8, seed).indices) for seed in range(10)}
    assert len(plans) > 1
    assert all(rows_of(pack(lengths, 8, seed), lengths) == rows_of(plan, lengths) for seed in range(10))


def test_without_packing_each_row_is_one_example() -> None:
    plan = RowPlan.one_each(4)
    assert [row.tolist() for row in plan] == [[0], [1], [2], [3]]
    assert plan.row_lengths(np.array([5, 0, 7, 1])).tolist() == [5, 0, 7, 1]
    for row in (-1, 4):
        with pytest.raises(IndexError, match=f"row {row} of 4"):
            plan[row]


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(UserError, match=r"example 2 takes 12 positions, more than seq_len=8; so do 1 others"):
        pack(np.array([3, 9, 12, 8]), 8, seed=0)
    with pytest.raises(UserError, match="seq_len: 0 must be at least 1"):
        pack(np.array([3]), 0, seed=0)


def test_a_million_examples_are_packed_in_seconds_and_megabytes() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(4.9, 0.6, 1_000_000).astype(np.int32), 2, 2047)
    started = time.process_time()
    plan = pack(lengths, 2047, seed=0)
    assert time.process_time() - started < 10  # half a second, undisturbed
    assert plan.indices.nbytes + plan.offsets.nbytes < 10e6
    assert plan.efficiency(lengths, 2047) > 0.99


def test_alpaca_rows_are_nearly_full(shared_data: Path, llama2_tokenizer: Any) -> None:
    args = DataArgs(data=str(shared_data / "alpaca_en_999.json"), max_tune_length=1025)
    examples = prepare(args, llama2_tokenizer, seed=0).training
    needed = positions_needed(examples)
    assert pack(needed, 1024, seed=0).efficiency(needed, 1024) >= 0.97
