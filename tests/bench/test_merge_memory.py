"""Merging holds a tensor or a few, however large the model is."""

from pathlib import Path
from typing import Any

import pytest

from bench import merge_memory

SHAPE = dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=24, num_attention_heads=8)


@pytest.mark.long
def test_merging_takes_less_than_the_model(make_model: Any, tmp_path: Path) -> None:
    tokenizer, _ = make_model()
    tiny, adapter = (
        merge_memory.make_model(tmp_path / name, shape, tokenizer, vocab_size=8192)
        for name, shape in (("tiny", merge_memory.TINY), ("large", SHAPE))
    )
    found = merge_memory.merge_in_a_process(adapter, tiny, tmp_path / "out", "20MB")
    assert found["model"] > 200e6
    assert found["largest file"] <= 20e6
    assert found["growth"] < 130e6
