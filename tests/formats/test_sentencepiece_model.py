"""A tokenizer.model alone gives SentencePiece's ids, and what is written from it gives them everywhere."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from lodos.errors import UserError
from lodos.formats.tokenizer_files import copy_tokenizer, load_tokenizer

TEXTS = [
    "Below is an instruction that describes a task.",
    "Hello  world",
    "  leading and trailing  ",
    "a\n\n    return 12345.67\tx",
    "é ü 日本語 🙂",
    "",
]
CONFIGS: dict[str, dict[str, Any] | None] = {
    "no tokenizer_config.json": None,
    "LlamaTokenizer": {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"},
    "LlamaTokenizer, not legacy": {"tokenizer_class": "LlamaTokenizer", "legacy": False},
}
KINDS: dict[str, dict[str, Any]] = {
    "bpe": dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity"),
    "bpe, user-defined": dict(
        model_type="bpe", byte_fallback=True, user_defined_symbols=["<|im_start|>", "<|im_end|>"]
    ),
    "unigram": dict(model_type="unigram", byte_fallback=True),
}


def trained(folder: Path, kind: str) -> Path:
    """A folder with a small SentencePiece model of this kind, like Llama's but for its size."""
    folder.mkdir()
    words = "instruction describes a task world return hello write response that completes the request"
    lines = [f"{word} {other}  {number}" for word in words.split() for number, other in enumerate(words.split())]
    (folder / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    settings = dict(vocab_size=450, remove_extra_whitespaces=False, split_digits=True, hard_vocab_limit=False)
    SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        minloglevel=2,
        **settings,
        **KINDS[kind],
    )
    return folder


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return trained(tmp_path / "model", request.param)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_ids_are_those_of_sentencepiece(folder: Path, config: str) -> None:
    if (settings := CONFIGS[config]) is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer = load_tokenizer(folder)
    # transformers means one leading space less where it is not legacy.
    texts = [text for text in TEXTS if not text.startswith(" ") or "not legacy" not in config]
    assert [ids(tokenizer, text) for text in texts] == [pieces.encode(text) for text in texts]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_what_is_written_along_is_a_tokenizer_json_with_the_same_ids_and_offsets(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIGS["LlamaTokenizer"]))
    (tmp_path / "out").mkdir()
    copy_tokenizer(folder, tmp_path / "out", chat_template="{{ messages }}")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
    before = load_tokenizer(folder)
    for after in (AutoTokenizer.from_pretrained(tmp_path / "out"), load_tokenizer(tmp_path / "out")):
        for text in [*TEXTS, "Q</s>A", "<s> x"]:
            one, other = (tokenizer(text, return_offsets_mapping=True) for tokenizer in (before, after))
            assert (one["input_ids"], one["offset_mapping"]) == (other["input_ids"], other["offset_mapping"])
        assert after.chat_template == "{{ messages }}"
        assert after.eos_token == "</s>"


def test_offsets_cover_the_text(tmp_path: Path) -> None:
    """They decide what is trained."""
    tokenizer = load_tokenizer(trained(tmp_path / "model", "bpe"))
    for text in filter(None, TEXTS):
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        assert (offsets[0][0], offsets[-1][1]) == (0, len(text))
        assert all(end == start or end - 1 == start for (_, end), (start, _) in itertools.pairwise(offsets))


def test_llama_2s_own(tmp_path: Path, shared_data: Path) -> None:
    shutil.copy(shared_data / "llama2_tokenizer.model", tmp_path / "tokenizer.model")
    pieces = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for settings in ({}, CONFIGS["LlamaTokenizer"]):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer = load_tokenizer(tmp_path)
        assert [ids(tokenizer, text) for text in TEXTS] == [pieces.encode(text) for text in TEXTS]
        assert ids(tokenizer, "Hello  world") == [15043, 29871, 3186]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"IQ== 0\nIg== 1\n", "no SentencePiece model.*tiktoken.*tokenizer.json"),
        (b"\x0a\x0e\x0a\x05<unk", "not a whole SentencePiece model"),
    ],
)
def test_another_tokenizer_model_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(UserError, match=said):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("named", ["LlamaTokenizer", "Qwen2Tokenizer", "PreTrainedTokenizerFast"])
def test_settings_without_a_vocabulary_are_no_tokenizer(named: str, tmp_path: Path) -> None:
    """transformers would make one in which every text is empty."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
    with pytest.raises(UserError, match="no tokenizer: none of tokenizer"):
        load_tokenizer(tmp_path)
