"""The tokenizer inside a GGUF file as Hugging Face's files.

Byte-level BPE ("gpt2" in GGUF's words) only: vocabulary and merges are in the file, how text is cut before the
merges is only named (`tokenizer.ggml.pre`): `gguf_pre_tokenizers.py` has what each name means. transformers' own
GGUF reader cuts all of them like GPT-2 and so joins digits that SmolLM2 keeps apart.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models

from lodos.errors import UserError
from lodos.formats.gguf_pre_tokenizers import IGNORE_MERGES, PRE_TOKENIZERS
from lodos.formats.tokenizer_files import write_tokenizer

_CONTROL, _USER_DEFINED = 3, 4  # of llama.cpp's token types


def save_tokenizer(fields: Mapping[str, Any], folder: Path, *, source: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and the chat template.

    Args:
        fields: the GGUF file's settings.
        source: the file, for the error.

    Raises:
        UserError: for a kind of tokenizer that is not understood.
    """
    from transformers import PreTrainedTokenizerFast

    model: Any = fields.get("tokenizer.ggml.model")
    pre: Any = fields.get("tokenizer.ggml.pre")
    problems = []
    if model != "gpt2":
        problems.append(f"tokenizer.ggml.model: {model!r} is not understood; only gpt2 (byte-level BPE) is.")
    if pre not in PRE_TOKENIZERS:
        problems.append(f"tokenizer.ggml.pre: {pre!r} is not understood; known: {', '.join(PRE_TOKENIZERS)}.")
    problems += [
        f"no tokenizer.ggml.{name}." for name in ("tokens", "merges") if f"tokenizer.ggml.{name}" not in fields
    ]
    problems += [
        f"tokenizer.ggml.{name}: set, which is not understood."
        for name in ("add_bos_token", "add_eos_token", "add_space_prefix")
        if fields.get(f"tokenizer.ggml.{name}")
    ]
    if problems:
        raise UserError(f"{source}:\n  " + "\n  ".join(problems))

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre in IGNORE_MERGES))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == _CONTROL, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    special = {
        name: tokens[fields[f"tokenizer.ggml.{key}_token_id"]]
        for name, key in (
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
        )
        if f"tokenizer.ggml.{key}_token_id" in fields
    }
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = fields.get("tokenizer.chat_template")
    write_tokenizer(fast, folder)
