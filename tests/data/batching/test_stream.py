"""A stream gives up random access, but no row, and no repeatability."""

import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodos.data.batching import stream as stream_module
from lodos.data.batching.stream import ExampleStream, StreamLoader, in_turns, shuffled
from lodos.data.config import DataArgs
from lodos.errors import UserError
from lodos.types import LmExample


def write(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows(numbers: range) -> list[dict[str, str]]:
    return [{"instruction": f"Say {n}.", "output": f"{n} " * (n % 7 + 1)} for n in numbers]


def stream_of(tokenizer: Any, data: Any, *, seed: int = 0, **options: Any) -> ExampleStream:
    return ExampleStream(DataArgs(data=data, streaming=True, **options), tokenizer, seed=seed)


def same(a: LmExample, b: LmExample) -> bool:
    names = ("tokens", "targets", "loss_weight", "segment_ids", "positions")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


@given(count=st.integers(0, 60), size=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))
def test_the_buffer_loses_nothing_and_lets_nothing_out_early(count: int, size: int, seed: int) -> None:
    order = list(shuffled(range(count), size, np.random.RandomState(seed)))
    assert sorted(order) == list(range(count))
    assert all(item - place <= size for place, item in enumerate(order))


def test_the_buffer_mixes_as_far_as_it_reaches() -> None:
    order = list(shuffled(range(1000), 100, np.random.RandomState(0)))
    moved = np.abs(np.array(order) - np.arange(1000))
    assert 20 < moved.mean() < 200


def test_sources_take_turns() -> None:
    assert list(in_turns([iter("abc"), iter(""), iter("1"), iter("xy")])) == list("a1xbyc")


def test_an_epoch_is_every_row_once_and_epochs_differ(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = [write(tmp_path / "a.jsonl", rows(range(30))), write(tmp_path / "b.jsonl", rows(range(5)))]
    stream = stream_of(tiny_tokenizer, data, shuffle_buffer=10)
    epochs = [[(example.file, example.number) for example in stream.epoch(k)] for k in (0, 1, 0)]
    every = [(data[0], n) for n in range(1, 31)] + [(data[1], n) for n in range(1, 6)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == every
    assert epochs[0] != epochs[1]
    assert epochs[0] == epochs[2]
    other = stream_of(tiny_tokenizer, data, shuffle_buffer=10, seed=1)
    assert [(example.file, example.number) for example in other.epoch(0)] != epochs[0]
    assert [report.kept for report in stream.reports.values()] == [30, 5]


def test_rows_are_read_only_as_far_as_needed(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = itertools.count()

    def counting(*args: Any, **options: Any) -> Any:
        for row in original(*args, **options):
            next(read)
            yield row

    original = stream_module.iter_rows
    monkeypatch.setattr(stream_module, "iter_rows", counting)
    data = write(tmp_path / "a.jsonl", rows(range(5000)))
    list(itertools.islice(stream_of(tiny_tokenizer, data, shuffle_buffer=100).epoch(0), 10))
    assert next(read) <= 2000


@pytest.mark.parametrize("seq_len", [None, 128])
def test_batches_are_those_of_the_seed_from_any_step(tmp_path: Path, tiny_tokenizer: Any, seq_len: int | None) -> None:
    data = write(tmp_path / "a.jsonl", rows(range(23)))

    def batches(k: int, count: int, **hosts: int) -> list[LmExample]:
        stream = stream_of(tiny_tokenizer, data, shuffle_buffer=10, max_tune_length=129)
        loader = StreamLoader(stream, batch_size=4, pad_id=0, seed=0, max_length=129, seq_len=seq_len, **hosts)
        return list(itertools.islice(loader.iter_from_step(k), count))

    straight = batches(0, 9)  # beyond the end of an epoch
    assert all(map(same, batches(5, 4), straight[5:]))
    shares = [batches(0, 3, host_index=i, host_count=2) for i in range(2)]
    for batch, first, second in zip(straight, *shares, strict=False):
        assert np.array_equal(np.concatenate([first.tokens, second.tokens]), batch.tokens)
    allowed = {(4, seq_len)} if seq_len else {(4, length) for length in (16, 32, 64, 128)}
    assert {np.shape(batch.tokens) for batch in straight} <= allowed


@pytest.mark.parametrize("seq_len", [None, 256])
def test_batches_hold_every_token_of_an_epoch(tmp_path: Path, tiny_tokenizer: Any, seq_len: int | None) -> None:
    data = write(tmp_path / "a.jsonl", rows(range(24)))
    stream = stream_of(tiny_tokenizer, data, shuffle_buffer=10, max_tune_length=256)
    expected = sum(int(example.trained.sum()) for example in stream.epoch(0))
    loader = StreamLoader(stream, batch_size=1, pad_id=0, seed=0, max_length=256, seq_len=seq_len)
    weights, examples = 0.0, 0
    for batch in loader:
        weights += float(np.asarray(batch.loss_weight).sum())
        examples += int(np.asarray(batch.segment_ids).max())
        if examples == 24:
            break
    assert weights == expected


def test_rows_left_out_are_told_of_when_they_are_met(
    tmp_path: Path, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    given = rows(range(3))
    given[1] = {"instruction": "no output"}
    data = write(tmp_path / "a.jsonl", given)
    with caplog.at_level(logging.WARNING):
        assert len(list(stream_of(tiny_tokenizer, data, on_bad_row="drop").epoch(0))) == 2
    assert f"{data}: rows are left out, not as the format wants it, first row 2." in caplog.text
    with pytest.raises(UserError, match=r"1 of 3 rows cannot be trained:\n.*row 2: output is missing"):
        list(stream_of(tiny_tokenizer, data).epoch(0))


def test_what_a_stream_cannot_do_is_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = write(tmp_path / "a.jsonl", rows(range(3)))
    with pytest.raises(UserError, match="weights say how often rows are repeated"):
        stream_of(tiny_tokenizer, [data, {"path": data, "weight": 2}])
    stream = stream_of(tiny_tokenizer, data, max_tune_length=2)
    with pytest.raises(UserError, match=r"no rows to train on:\n.*0 of 3 rows kept"):
        list(stream.epoch(0))
    with pytest.raises(UserError, match="cannot be shared equally by 3 hosts"):
        StreamLoader(stream, batch_size=4, pad_id=0, seed=0, max_length=9, host_count=3)
