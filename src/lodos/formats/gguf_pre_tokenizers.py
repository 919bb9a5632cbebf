"""How text is cut before byte-level BPE merges: what llama.cpp's names of it (`tokenizer.ggml.pre`) mean.

The expressions are those of the tokenizers after which llama.cpp names them (`llm_tokenizer_bpe` in its
`src/llama-vocab.cpp`): GPT-2, SmolLM, Llama 3, Qwen 2 and Mistral Nemo.
"""

import json
from collections.abc import Callable
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

_WORD_AND_SPACE = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _WORD_AND_SPACE
_QWEN_2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _WORD_AND_SPACE
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _by(expression: str) -> Callable[[], Any]:
    return lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": _by(_LLAMA_3),
    "qwen2": _by(_QWEN_2),
    "tekken": _by(_TEKKEN),
}

IGNORE_MERGES = frozenset({"llama-bpe", "tekken"})
"""With these llama.cpp takes a word that is a token as it is, whatever merges would make of it."""


def name_of(tokenizer: Tokenizer) -> str | None:
    """llama.cpp's name of how this tokenizer cuts text; None where it has none."""
    meant = _comparable(json.loads(tokenizer.to_str())["pre_tokenizer"])
    return next((name for name, make in PRE_TOKENIZERS.items() if _comparable(_as_json(make())) == meant), None)


def _as_json(pre_tokenizer: Any) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    return json.loads(tokenizer.to_str())["pre_tokenizer"]


def _comparable(node: Any) -> Any:
    """Without what changes offsets alone."""
    if isinstance(node, dict):
        return {key: _comparable(value) for key, value in node.items() if key != "trim_offsets"}
    return [_comparable(value) for value in node] if isinstance(node, list) else node
