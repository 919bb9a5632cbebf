"""Chunks are small enough to hold, and nothing of a chunk goes unaccounted for."""

import pickle
from typing import Any

import pytest

from lodos.data.asked import AskedRowsCounter
from lodos.data.reading.rows import Row
from lodos.data.text.formats import make_format
from lodos.data.tokens.chunks import CHUNK_CHARACTERS, CHUNK_ROWS, ChunkWork, end_ids, in_chunks, refused_reasons
from lodos.data.tokens.tokenize import ExampleTokenizer


def row(number: int, output: Any = "yes", file: str = "a.json") -> Row:
    return Row(file, number, {"instruction": "Say yes.", "output": output})


def work(tokenizer: Any, *, max_length: int = 300, refused: frozenset[str] = frozenset()) -> ChunkWork:
    return ChunkWork(
        make_format("alpaca", tokenizer=tokenizer),
        ExampleTokenizer(tokenizer, max_length=max_length),
        end_ids(tokenizer, "alpaca"),
        refused,
        AskedRowsCounter.of("alpaca", tokenizer),
    )


def test_chunks_are_cut_by_rows_or_by_their_text() -> None:
    small = [row(n) for n in range(2 * CHUNK_ROWS + 1)]
    assert [len(chunk) for chunk in in_chunks(small)] == [CHUNK_ROWS, CHUNK_ROWS, 1]
    large = [row(n, ["x" * (CHUNK_CHARACTERS // 4), {"y": "z" * (CHUNK_CHARACTERS // 4)}]) for n in range(5)]
    assert [len(chunk) for chunk in in_chunks(large)] == [2, 2, 1]
    assert [row for chunk in in_chunks(large) for row in chunk] == large
    assert list(in_chunks([])) == []


def test_every_row_is_kept_or_dropped_in_the_report_of_its_file(tiny_tokenizer: Any) -> None:
    rows = [row(1), row(2, 7), row(1, file="b.json"), row(3, "x" * 500), row(4), row(2, file="b.json")]
    done = work(tiny_tokenizer, refused=refused_reasons("error", "drop"))(rows)
    assert [(report.file, report.read, report.kept) for report in done.reports] == [("a.json", 4, 2), ("b.json", 2, 2)]
    assert [(example.file, example.number) for example in done.columns] == [
        ("a.json", 1), ("b.json", 1), ("a.json", 4), ("b.json", 2)
    ]  # fmt: skip
    assert done.refused == [("not as the format wants it", "a.json, row 2: output must be text, found int 7.")]
    assert sum(report.tokens for report in done.reports) == len(done.columns.ids)


@pytest.mark.parametrize(
    ("options", "count"),
    [(("error", "error"), 2), (("error", "drop"), 1), (("drop", "error"), 1), (("drop", "drop"), 0)],
)
def test_what_may_not_be_left_out_goes_by_the_options(
    tiny_tokenizer: Any, options: tuple[str, str], count: int
) -> None:
    done = work(tiny_tokenizer, refused=refused_reasons(*options))([row(1, 7), row(2, "x" * 500)])
    assert len(done.refused) == count
    assert done.reports[0].dropped_count == 2


def test_work_that_was_sent_does_the_same(tiny_tokenizer: Any) -> None:
    rows = [row(n, "yes " * n) for n in range(1, 60)]
    here = work(tiny_tokenizer)
    there = pickle.loads(pickle.dumps(here))
    for a, b in zip(here(rows).columns, there(rows).columns, strict=True):
        assert (a.ids.tolist(), a.trained.tolist(), a.number) == (b.ids.tolist(), b.trained.tolist(), b.number)
    assert here(rows).reports == there(rows).reports


def test_what_ends_an_answer(tiny_tokenizer: Any) -> None:
    eos = tiny_tokenizer.eos_token_id
    assert end_ids(tiny_tokenizer, "alpaca") == {eos}
    assert end_ids(tiny_tokenizer, "chat") >= {eos, tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_examples_of_columns_do_not_hold_the_whole_chunk(tiny_tokenizer: Any) -> None:
    columns = work(tiny_tokenizer)([row(1), row(2)]).columns
    assert all(example.ids.base is None and example.trained.base is None for example in columns)
