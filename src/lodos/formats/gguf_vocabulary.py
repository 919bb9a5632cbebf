"""A Hugging Face tokenizer as the fields of a GGUF file.

llama.cpp has tokenizers of its own and takes from the file what they need: byte-level BPE ("gpt2") its tokens, merges,
and the name of how text is cut before them; SentencePiece's BPE ("llama") its pieces with scores, the highest of which
is joined first. A tokenizer.json of the latter has merges in that order, and no scores: the place of the first merge
that gives a piece stands for its score.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import gguf

from lodos.errors import UserError
from lodos.formats.gguf_pre_tokenizers import IGNORE_MERGES, name_of
from lodos.prompting.description import Prompting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPACE = "\u2581"
"""SentencePiece's mark of a space."""
_UNMERGED_SCORE = -1e6
"""Of a piece that no merge gives."""


def add_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: "PreTrainedTokenizerFast", rows: int, prompting: Prompting | None
) -> list[str]:
    """Writes the tokenizer; what of it llama.cpp does otherwise, a sentence each.

    Args:
        rows: of the embedding, of which each needs a token.
        prompting: whose end tokens end an answer.

    Raises:
        UserError: for a tokenizer that llama.cpp has not.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    if model.get("type") != "BPE":
        raise UserError(f"tokenizer.json: a {model.get('type')} tokenizer; as GGUF BPE alone is written.")
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    is_sentencepiece = bool(model.get("byte_fallback"))
    tokens, types = _tokens_and_types(tokenizer, rows, is_sentencepiece=is_sentencepiece)
    remarks = []
    if is_sentencepiece:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        scores: dict[str, float] = {}
        for place, (left, right) in enumerate(merges):
            scores.setdefault(left + right, -float(place))
        writer.add_token_list(tokens)
        writer.add_token_scores([scores.get(token, _UNMERGED_SCORE) for token in tokens])
        writer.add_token_types(types)
        writer.add_add_space_prefix(_adds_a_space(tokenizer))
    else:
        pre = name_of(tokenizer.backend_tokenizer)
        if pre is None:
            raise UserError(
                "tokenizer.json: llama.cpp has no name, that is known here, for how this tokenizer cuts text "
                "(pre_tokenizer). Merge (lodos merge) and give the folder to llama.cpp's convert_hf_to_gguf.py."
            )
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([" ".join(merge) for merge in merges])
        if bool(model.get("ignore_merges")) != (pre in IGNORE_MERGES):
            remarks.append(f"llama.cpp's {pre} tokenizer reads ignore_merges of tokenizer.json otherwise.")
        if state.get("normalizer") is not None:
            kind = state["normalizer"].get("type")
            remarks.append(f"llama.cpp does not normalise text; the tokenizer does ({kind}).")
    for name, value in _special_ids(tokenizer, prompting).items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", value)
    if len(others := list(_other_ends(tokenizer, prompting))) > 1:
        remarks.append(
            f"llama.cpp takes one token besides EOS as the end of an answer; the training has {len(others)}."
        )
    writer.add_add_bos_token(_begins_with_bos(tokenizer))
    writer.add_add_eos_token(False)
    return remarks


def _tokens_and_types(
    tokenizer: "PreTrainedTokenizerFast", rows: int, *, is_sentencepiece: bool
) -> tuple[list[str], list[int]]:
    """The token and its type for each row of the embedding."""
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for index in range(rows):
        token = by_id.get(index)
        if token is None:
            tokens.append(f"[PAD{index}]")
            types.append(gguf.TokenType.UNUSED)
            continue
        tokens.append(token)
        if is_sentencepiece and index == tokenizer.unk_token_id:
            types.append(gguf.TokenType.UNKNOWN)
        elif index in added:
            types.append(gguf.TokenType.CONTROL if added[index].special else gguf.TokenType.USER_DEFINED)
        elif is_sentencepiece and _is_byte(token):
            types.append(gguf.TokenType.BYTE)
        else:
            types.append(gguf.TokenType.NORMAL)
    return tokens, [int(kind) for kind in types]


def _is_byte(token: str) -> bool:
    return len(token) == len("<0x00>") and token.startswith("<0x") and token.endswith(">")


def _adds_a_space(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Whether text begins with a space that is not its own."""
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])
    return str(pieces[0]).startswith(_SPACE)


def _begins_with_bos(tokenizer: "PreTrainedTokenizerFast") -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


def _special_ids(tokenizer: "PreTrainedTokenizerFast", prompting: Prompting | None) -> Mapping[str, int]:
    """By llama.cpp's names; what else than EOS ended answers in training is its end of a turn."""
    ids: dict[str, Any] = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
        "eot": next(_other_ends(tokenizer, prompting), None),
    }
    return {name: value for name, value in ids.items() if isinstance(value, int)}


def _other_ends(tokenizer: "PreTrainedTokenizerFast", prompting: Prompting | None) -> Iterator[int]:
    for token in () if prompting is None else prompting.end_tokens:
        if token.id != tokenizer.eos_token_id:
            yield token.id
