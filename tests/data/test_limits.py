"""What a model has no room for is said before it is read as something else, wherever the tokens come from."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lodos.data.batching.stream import ExampleStream
from lodos.data.config import DataArgs
from lodos.data.examples import TokenizedExample
from lodos.data.limits import ModelLimits
from lodos.data.mixture import Selection
from lodos.data.prepare import prepare
from lodos.data.tokens.store import Columns, ExampleStore, StoreWriter
from lodos.errors import UserError


def _examples(*rows: Sequence[int]) -> list[TokenizedExample]:
    return [
        TokenizedExample(np.array(ids, np.int32), np.array([False] + [True] * (len(ids) - 1)), "a.json", number)
        for number, ids in enumerate(rows, 1)
    ]


def _store(folder: Path, *rows: Sequence[int]) -> ExampleStore:
    folder.mkdir()
    with StoreWriter(folder) as writer:
        writer.write(Columns.of(_examples(*rows)))
    return ExampleStore(folder)


def test_a_token_beyond_the_embedding_is_named_with_its_row(tmp_path: Path, tiny_tokenizer: Any) -> None:
    name = tiny_tokenizer.convert_ids_to_tokens(9)
    rows = ([1, 2, 3], [4, 9, 5, 9], [8, 1])
    for part in (_examples(*rows), _store(tmp_path / "store", *rows)):
        assert ModelLimits(10, 100).problems([part], tiny_tokenizer) == []
        (problem,) = ModelLimits(9, 100).problems([Selection([part], np.array([0]))], tiny_tokenizer)
        assert problem.startswith("1 row has tokens beyond the 9 rows of the model's embedding: a.json, row 2:")
        assert f"row 2: {name!r} (id 9). " in problem
        (problem,) = ModelLimits(4, 100).problems([part, part], tiny_tokenizer)
        assert problem.startswith("2 rows have")
        assert "a.json, row 3" in problem


def test_a_store_knows_its_largest_id(tmp_path: Path) -> None:
    assert _store(tmp_path / "some", [1, 7], [3, 2]).largest_id == 7
    with StoreWriter(tmp_path) as writer:
        writer.write(Columns.of([]))
    assert ExampleStore(tmp_path).largest_id == -1


def test_the_last_token_takes_no_position(tiny_tokenizer: Any) -> None:
    examples = _examples(range(4), range(5), range(7), range(2))
    assert ModelLimits(10, 6).problems([examples], tiny_tokenizer) == []
    (problem,) = ModelLimits(10, 3).problems([Selection([examples])], tiny_tokenizer)
    assert problem.startswith("2 rows are longer than the model's 3 positions")
    assert "the longest has 7 tokens: a.json, row 2; a.json, row 3. Set max_tune_length to 4 or less" in problem
    assert ModelLimits(10, 3).problems([_examples(range(4))], tiny_tokenizer) == []


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LODOS_CACHE", str(tmp_path / "cache"))
    rows = [{"text": "a b"}, {"text": "call <|call|> it"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(tmp_path / "rows.jsonl")


def test_tokens_from_the_cache_are_looked_at_for_each_model(data: str, make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(eos_token="</s>")
    size = len(tokenizer)
    tokenizer.add_tokens(["<|call|>"], special_tokens=True)
    for _ in range(2):  # of which the second is from the cache
        prepared = prepare(DataArgs(data=data), tokenizer, seed=0, progress=False)
        assert ModelLimits(size + 1, 100).problems([prepared.training], tokenizer) == []
        (problem,) = ModelLimits(size, 100).problems([prepared.training], tokenizer)
        assert f"row 2: '<|call|>' (id {size})" in problem


def test_streamed_rows_are_looked_at_as_they_are_met(data: str, make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(eos_token="</s>")
    size = len(tokenizer)
    tokenizer.add_tokens(["<|call|>"], special_tokens=True)
    args = DataArgs(data=data, streaming=True)
    assert len(list(ExampleStream(args, tokenizer, seed=0, limits=ModelLimits(size + 1, 100)).epoch(0))) == 2
    for limits, says in ((ModelLimits(size, 100), "'<|call|>'"), (ModelLimits(size + 1, 3), "row 2")):
        with pytest.raises(UserError) as error:
            list(ExampleStream(args, tokenizer, seed=0, limits=limits).epoch(0))
        assert says in str(error.value)
