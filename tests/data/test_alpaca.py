"""A file becomes training and held-out rows; what is left out is said, and nothing left is an error."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lodos.data.alpaca import read_alpaca
from lodos.errors import UserError

Write = Callable[..., Path]


def _rows(*outputs: str) -> list[dict[str, str]]:
    return [{"instruction": f"{i}?", "output": output} for i, output in enumerate(outputs)]


def _read(path: Path, tokenizer: Any, validation: Any = None, max_length: int = 40) -> Any:
    bare = {"prompt_input": "{instruction}{input}", "prompt_no_input": "{instruction}"}
    return read_alpaca(str(path), validation, tokenizer, prompts=bare, max_length=max_length, seed=0)


def test_held_out_rows_are_a_share_a_count_or_a_file(write_jsonl: Write, tiny_tokenizer: Any) -> None:
    path = write_jsonl(*_rows(*"abcdefghij"))
    for validation, held_out in ((None, 0), (3, 3), (0.2, 2)):
        training, kept_apart = _read(path, tiny_tokenizer, validation)
        assert (len(training), len(kept_apart)) == (10 - held_out, held_out)
        assert sorted(example.number for example in (*training, *kept_apart)) == list(range(1, 11))
    other = write_jsonl(*_rows("x"), name="other.jsonl")
    training, held_out_rows = _read(path, tiny_tokenizer, str(other))
    assert [len(training), [example.file for example in held_out_rows]] == [10, [str(other)]]


def test_rows_left_out_are_counted_and_named(
    write_jsonl: Write, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_jsonl(*_rows("a", "b" * 50, "c", "d" * 60))
    with caplog.at_level(logging.INFO):
        training, _ = _read(path, tiny_tokenizer)
    assert [example.number for example in training] == [1, 3]
    kept, left_out = (record.getMessage() for record in caplog.records)
    assert kept.startswith(f"{path}: 2 of 4 rows kept, 8 tokens, 4 of them trained (50%)")
    assert left_out == (
        f"{path}: left out, too long: {path}, row 2; {path}, row 4 (53 tokens, more than max_length=40)."
    )


def test_nothing_to_train_on_is_an_error(write_jsonl: Write, tiny_tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"none of the 1 rows can be trained. too long: .*row 1 \(53 tokens"):
        _read(write_jsonl(*_rows("b" * 50)), tiny_tokenizer)
    with pytest.raises(UserError, match=r"1 of 1 rows are not in the format alpaca"):
        _read(write_jsonl({"text": "a"}), tiny_tokenizer)
