"""A batch holds each prediction of its examples once, and filler counts for nothing."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodos.data.batches import bucket_lengths, checked_lengths, pad_batch, smallest_that_holds
from lodos.data.examples import TokenizedExample
from lodos.errors import UserError


def test_a_batch_by_hand() -> None:
    eos = 2
    long = TokenizedExample(np.array([1, 7, 8, 9, eos], np.int32), np.array([0, 0, 0, 1, 1], bool), "a.json", 1)
    short = TokenizedExample(np.array([1, 5, eos], np.int32), np.array([0, 1, 1], bool), "a.json", 1)
    batch = pad_batch([long, short], pad_id=eos, length=6, batch_size=3)
    expected = {
        "tokens": [[1, 7, 8, 9, 2, 2], [1, 5, 2, 2, 2, 2], [2] * 6],
        "targets": [[7, 8, 9, 2, 2, 2], [5, 2, 2, 2, 2, 2], [2] * 6],
        # The end is trained though filler has its id, and no filler is.
        "loss_weight": [[0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6],
        "segment_ids": [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6],
        "positions": [[0, 1, 2, 3, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6],
    }
    for name, values in expected.items():
        array: Any = getattr(batch, name)
        assert array.tolist() == values, name
        assert array.dtype == (np.float32 if name == "loss_weight" else np.int32), name


@given(
    lengths=st.lists(st.integers(2, 20), min_size=1, max_size=5),
    extra=st.integers(0, 9),
    rows=st.integers(0, 3),
)
def test_filler_changes_no_prediction(lengths: list[int], extra: int, rows: int) -> None:
    rng = np.random.default_rng(sum(lengths))
    examples = [TokenizedExample(rng.integers(0, 9, n, np.int32), rng.random(n) < 0.5, "a.json", 1) for n in lengths]
    batch: Any = pad_batch(examples, 0, max(lengths) - 1 + extra, len(examples) + rows)
    real = batch.segment_ids > 0
    pairs = [pair for e in examples for pair in zip(e.ids[:-1], e.ids[1:], e.trained[1:], strict=True)]
    assert list(zip(batch.tokens[real], batch.targets[real], batch.loss_weight[real], strict=True)) == pairs
    assert not batch.loss_weight[~real].any()


def test_an_example_is_never_cut(make_examples: Callable[..., list[TokenizedExample]]) -> None:
    assert np.shape(pad_batch(make_examples([5]), 0, 4).tokens) == (1, 4)
    with pytest.raises(UserError, match=r"made.json, row 1: needs 4 positions, the batch has 3"):
        pad_batch(make_examples([5]), 0, 3)
    with pytest.raises(ValueError, match="3 examples do not fit"):
        pad_batch(make_examples([5, 5, 5]), 0, 4, batch_size=2)


@given(needed=st.lists(st.integers(0, 3000), min_size=1, max_size=50), batch_size=st.integers(1, 16))
def test_buckets_are_few_and_hold_everything(needed: list[int], batch_size: int) -> None:
    buckets = bucket_lengths(needed, batch_size=batch_size)
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
    def expected_length(buckets: tuple[int, ...]) -> float:
        fits = [np.mean(np.asarray(needed) <= b) ** batch_size for b in buckets]
        return float(np.dot(buckets, np.diff([0.0, *fits])))

    top = -(-max(needed) // 8) * 8
    choices = [(*below, top) for count in range(most) for below in combinations(range(8, top, 8), count)]
    found = bucket_lengths(needed, batch_size=batch_size, max_buckets=most)
    assert expected_length(found) == pytest.approx(min(map(expected_length, choices)))


def test_given_lengths_must_hold_every_example(make_examples: Callable[..., list[TokenizedExample]]) -> None:
    examples = make_examples([5, 20, 9])
    assert checked_lengths([32, 8, 32, 19], examples) == (8, 19, 32)
    assert smallest_that_holds((8, 19, 32), examples) == 19
    with pytest.raises(UserError, match=r"made.json, row 2: needs 19 positions, more than any .* \[8, 16\]"):
        checked_lengths([16, 8], examples)
