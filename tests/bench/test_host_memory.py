"""A host holds its share of a model and a few tensors, however large the model is."""

from pathlib import Path
from typing import Any

import pytest

from bench import host_memory, merge_memory

SHAPE = dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=24, num_attention_heads=8)


@pytest.mark.long
def test_a_host_holds_less_than_the_model(make_model: Any, tmp_path: Path) -> None:
    tokenizer, _ = make_model()
    tiny, large = (
        merge_memory.make_model(tmp_path / name, shape, tokenizer, vocab_size=8192)
        for name, shape in (("tiny", merge_memory.TINY), ("large", SHAPE))
    )
    model = sum(file.stat().st_size for file in (large.parent / "model").glob("*.safetensors"))
    assert model > 200e6
    for host in host_memory.hosts_memory(large, tiny, tmp_path, hosts=4):
        assert host["share"] < 0.4 * model
        for phase in host_memory.PHASES:
            assert host[phase] < 0.8 * model
