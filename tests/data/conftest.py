"""Real and made-up tokenizers, and examples that need none."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lodos.data.examples import TokenizedExample


@pytest.fixture(scope="session")
def llama2_tokenizer(shared_data: Path) -> Any:
    """Llama 2's tokenizer from its SentencePiece file, as its tokenizer.json has it (BOS, no PAD)."""
    pytest.importorskip("google.protobuf", reason="the SentencePiece file is a protocol buffer")
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import generate_merges, import_protobuf

    model = import_protobuf().ModelProto()
    model.ParseFromString((shared_data / "llama2_tokenizer.model").read_bytes())
    vocab = {piece.piece: i for i, piece in enumerate(model.pieces)}
    merges = generate_merges(vocab, {piece.piece: piece.score for piece in model.pieces})
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture
def make_examples() -> Callable[[Sequence[int]], list[TokenizedExample]]:
    """Examples of so many tokens. Token j of example i is 100 i + j; the second half is trained."""

    def make(lengths: Sequence[int]) -> list[TokenizedExample]:
        return [
            TokenizedExample(
                100 * i + np.arange(n, dtype=np.int32),
                np.arange(n) >= max(n // 2, 1),
                "made.json",
                i + 1,
            )
            for i, n in enumerate(lengths)
        ]

    return make


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as JSONL and returns the file."""

    def write(*rows: Any, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
