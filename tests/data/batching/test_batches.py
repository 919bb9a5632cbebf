"""A batch holds each prediction of its examples once, and filler counts for nothing."""

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodos.data.batching.batches import (
    bucket_lengths,
    expected_length,
    make_batch,
    positions_needed,
    smallest_that_holds,
)
from lodos.data.examples import TokenizedExample
from lodos.errors import UserError


def test_a_batch_by_hand() -> None:
    eos = 2
    long = TokenizedExample(np.array([1, 7, 8, 9, eos], np.int32), np.array([0, 0, 0, 1, 1], bool), "a.json", 1)
    short = TokenizedExample(np.array([1, 5, eos], np.int32), np.array([0, 1, 1], bool), "a.json", 1)
    batch = make_batch([[short], [long, short]], pad_id=eos, length=7, batch_size=3)
    expected = {
        "tokens": [[1, 5, 2, 2, 2, 2, 2], [1, 7, 8, 9, 1, 5, 2], [2] * 7],
        # The first token of an example is the target of none, neither of its neighbour's last.
        "targets": [[5, 2, 2, 2, 2, 2, 2], [7, 8, 9, 2, 5, 2, 2], [2] * 7],
        # The end is trained though filler has its id, and no filler is.
        "loss_weight": [[1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0], [0] * 7],
        "segment_ids": [[1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 2, 2, 0], [0] * 7],
        "positions": [[0, 1, 0, 0, 0, 0, 0], [0, 1, 2, 3, 0, 1, 0], [0] * 7],
    }
    for name, values in expected.items():
        array: Any = getattr(batch, name)
        assert array.tolist() == values, name
        assert array.dtype == (np.float32 if name == "loss_weight" else np.int32), name


@given(
    rows=st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=4), min_size=1, max_size=4),
    extra=st.integers(0, 9),
    filler_rows=st.integers(0, 3),
)
def test_filler_changes_no_prediction(rows: list[list[int]], extra: int, filler_rows: int) -> None:
    rng = np.random.default_rng(len(rows) + extra)
    examples = [
        [TokenizedExample(rng.integers(0, 9, n, np.int32), rng.random(n) < 0.5, "a.json", 1) for n in row]
        for row in rows
    ]
    length = max(sum(row) for row in rows) + extra
    batch: Any = make_batch(examples, pad_id=0, length=length, batch_size=len(rows) + filler_rows)
    real = batch.segment_ids > 0
    pairs = [pair for row in examples for e in row for pair in zip(e.ids[:-1], e.ids[1:], e.trained[1:], strict=True)]
    assert list(zip(batch.tokens[real], batch.targets[real], batch.loss_weight[real], strict=True)) == pairs
    assert not batch.loss_weight[~real].any()


def test_an_example_is_never_cut(make_examples: Callable[..., list[TokenizedExample]]) -> None:
    first, second = make_examples([5, 3])
    assert np.shape(make_batch([[first, second]], pad_id=0, length=6).tokens) == (1, 6)
    with pytest.raises(UserError, match=r"made.json, row 1: needs 4 positions, the batch has 3"):
        make_batch([[first]], pad_id=0, length=3)
    with pytest.raises(UserError, match=r"made.json, row 2: needs 2 positions after 4 of others, the batch has 5"):
        make_batch([[first, second]], pad_id=0, length=5)
    with pytest.raises(ValueError, match="2 rows do not fit"):
        make_batch([[first], [second]], pad_id=0, length=4, batch_size=1)


def test_examples_that_know_their_lengths_are_not_read() -> None:
    class Unread(list[TokenizedExample]):
        lengths = np.array([5, 1, 9], np.int32)

        def __getitem__(self, i: Any) -> Any:
            pytest.fail(f"example {i} was read")

        def __iter__(self) -> Any:
            pytest.fail("the examples were walked")

    assert positions_needed(Unread()).tolist() == [4, 0, 8]


@given(needed=st.lists(st.integers(0, 3000), min_size=1, max_size=50), batch_size=st.integers(1, 16))
def test_buckets_are_few_and_hold_everything(needed: list[int], batch_size: int) -> None:
    buckets = bucket_lengths(np.array(needed), batch_size=batch_size)
    multiple = 64 if max(needed) >= 512 else 8
    assert 1 <= len(buckets) <= 4
    assert list(buckets) == sorted(set(buckets))
    assert all(length % multiple == 0 for length in buckets)
    assert max(needed) <= buckets[-1] < max(needed, default=0) + multiple or buckets == (multiple,)


@given(
    needed=st.lists(st.integers(1, 64), min_size=1, max_size=12),
    batch_size=st.integers(1, 3),
    most=st.integers(1, 4),
)
@settings(deadline=None)
def test_buckets_pad_least_of_all_choices(needed: list[int], batch_size: int, most: int) -> None:
    top = -(-max(needed) // 8) * 8
    choices = [(*below, top) for count in range(most) for below in combinations(range(8, top, 8), count)]
    found = bucket_lengths(np.array(needed), batch_size=batch_size, max_buckets=most)
    best = min(expected_length(np.array(needed), choice, batch_size=batch_size) for choice in choices)
    assert expected_length(np.array(needed), found, batch_size=batch_size) == pytest.approx(best)


@given(needed=st.lists(st.integers(0, 20), min_size=1, max_size=4), batch_size=st.integers(1, 3))
def test_the_expected_length_is_the_mean_over_all_batches(needed: list[int], batch_size: int) -> None:
    lengths = (4, 9, 20)
    batches = [smallest_that_holds(lengths, max(rows)) for rows in product(needed, repeat=batch_size)]
    found = expected_length(np.array(needed), lengths, batch_size=batch_size)
    assert found == pytest.approx(np.mean(batches))
