"""Rows to token ids, and which of them are trained.

Prompt and answer are tokenized as one text, as the model will meet it. Tokenizing them apart would forbid
merges across the border (a colon and a quotation mark are one token of Llama 2) and, with SentencePiece, put
a space before the answer. Where the answer begins is known in characters, and the tokenizer says which
characters each token covers, so

    prompt, answer:  "### Response:", "The cat"
    tokens:          BOS  ▁###  ▁Response   :  The  ▁cat  EOS
    ends at:           0     3         12  13   16    20
    trained:           -     -          -   -    x     x    x      those that end after character 13

A token that covers the border is trained: it holds answer characters, and a model that is to answer must be
able to say it. The end of the sequence is trained in its own right, by place and not by id, so a pad token
that shares its id hides nothing.

SentencePiece tokenizers and offsets: the "▁" put before the text counts as its first character, which always
is the prompt's. A "▁" inside a text stands for the space before its word, so when a template ends in a space
the first answer token covers the border and is trained. All byte tokens of one character carry its offsets.
"""

import copy
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lodos.data.examples import TokenizedExample
from lodos.data.prompts import Prompts
from lodos.data.sources import AlpacaRow
from lodos.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

ROWS_PER_CALL = 1000
"""Rows handed to the tokenizer at once: enough for all its threads, few enough for a live progress bar."""


@dataclass(frozen=True, slots=True)
class TokenizeReport:
    """What became of the rows: `read == kept + len(too_long)`."""

    read: int
    kept: int
    too_long: tuple[AlpacaRow, ...]
    """The rows left out because they have more than `max_length` tokens."""
    max_length: int
    longest: int
    """Tokens of the longest row read, left out or not."""
    tokens: int
    """Tokens of the rows kept."""
    trained_tokens: int
    """Those of them that carry loss."""

    def __str__(self) -> str:
        text = (
            f"{self.kept} of {self.read} rows kept, {self.tokens} tokens, {self.trained_tokens} of them "
            f"trained ({self.trained_tokens / max(self.tokens, 1):.0%}); longest row {self.longest} tokens."
        )
        if self.too_long:
            text += f" Left out, longer than max_length={self.max_length}: {_named(self.too_long)}."
        return text


def padding_token_id(tokenizer: "PreTrainedTokenizerBase", vocab_size: int | None = None) -> int:
    """The id for filler: PAD if there is one in the vocabulary, else UNK, else EOS. The vocabulary never
    grows.

    Args:
        vocab_size: rows of the model's embedding, when known: a PAD that was added behind them is passed
            over.

    Raises:
        UserError: when the tokenizer has none of the three.
    """
    bound = len(tokenizer) if vocab_size is None else vocab_size
    for token_id in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int) and 0 <= token_id < bound:
            return token_id
    raise UserError(
        f"The tokenizer has no PAD, UNK or EOS token below {bound} to fill short rows with. "
        'Name one in its tokenizer_config.json, e.g. "eos_token".'
    )


def tokenize_alpaca(
    rows: Sequence[AlpacaRow],
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Prompts,
    *,
    mask_inputs: bool = True,
    max_length: int,
    overflow: Literal["drop", "error"] = "drop",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[TokenizedExample], TokenizeReport]:
    """Tokenizes prompt, answer and EOS of each row, in order.

    The ids are those of `tokenizer(prompt + answer)`, special tokens as the tokenizer adds them, with one EOS
    at the end whoever puts it there.

    Args:
        mask_inputs: train the answer and EOS only; otherwise every token but the first (L tokens, L-1
            targets).
        max_length: most tokens of a row, BOS and EOS included.
        overflow: what to do with longer rows: leave them out, counted and named in the report and the log, or
            refuse. Nothing is ever cut.
        progress: called with (rows done, rows in all).

    Raises:
        UserError: for a slow tokenizer, one without EOS, rows too long under `overflow="error"`, or when no
            row or no trained token is left.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which cannot say which characters a token "
            "covers. Use one with a tokenizer.json."
        )
    if overflow not in ("drop", "error"):
        raise UserError(f"overflow: {overflow!r} is not one of drop, error.")
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise UserError(
            "The tokenizer has no EOS token, so the model could never learn to stop. "
            'Name it as "eos_token" in tokenizer_config.json.'
        )

    kept: list[TokenizedExample] = []
    too_long: list[AlpacaRow] = []
    longest = 0
    for done, (row, ids, ends, border) in enumerate(_tokenized(rows, _with_whole_offsets(tokenizer), prompts), 1):
        trained = ends > border if mask_inputs else np.ones(len(ids), bool)
        if len(ids) and ids[-1] == eos:
            trained[-1] = True
        else:
            ids, trained = np.append(ids, np.int32(eos)), np.append(trained, True)
        trained[0] = False
        longest = max(longest, len(ids))
        if len(ids) > max_length:
            too_long.append(row)
        else:
            kept.append(TokenizedExample(ids, trained, row.file, row.number))
        if progress is not None and (done % ROWS_PER_CALL == 0 or done == len(rows)):
            progress(done, len(rows))

    report = TokenizeReport(
        read=len(rows),
        kept=len(kept),
        too_long=tuple(too_long),
        max_length=max_length,
        longest=longest,
        tokens=sum(len(example.ids) for example in kept),
        trained_tokens=sum(int(example.trained.sum()) for example in kept),
    )
    _refuse_or_log(report, overflow)
    return kept, report


def _refuse_or_log(report: TokenizeReport, overflow: str) -> None:
    fix = f"Raise max_length (the longest row has {report.longest} tokens) or shorten them."
    if report.too_long and (overflow == "error" or not report.kept):
        raise UserError(
            f"{len(report.too_long)} of {report.read} rows have more than max_length={report.max_length} "
            f"tokens: {_named(report.too_long)}. {fix}"
        )
    if not report.kept:
        raise UserError("There are no rows to train on.")
    if not report.trained_tokens:
        raise UserError(f"No token of the {report.kept} rows is trained: each row is a single token.")
    if report.too_long:
        logger.warning("%s %s", report, fix)


def _tokenized(
    rows: Sequence[AlpacaRow], tokenizer: "PreTrainedTokenizerBase", prompts: Prompts
) -> Iterator[tuple[AlpacaRow, np.ndarray, np.ndarray, int]]:
    """Yields (row, ids, the character each token ends before, the character the answer begins at)."""
    for start in range(0, len(rows), ROWS_PER_CALL):
        chunk = rows[start : start + ROWS_PER_CALL]
        heads = [prompts.render(row) for row in chunk]
        encoded = tokenizer(
            [head + row.output for head, row in zip(heads, chunk, strict=True)],
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=True,
            verbose=False,  # no warning at model_max_length: too long is judged and reported here
        )
        offsets: Any = encoded["offset_mapping"]
        for row, head, ids, spans in zip(chunk, heads, encoded["input_ids"], offsets, strict=True):
            ends = np.fromiter((end for _, end in spans), np.int64, len(spans))
            yield row, np.asarray(ids, np.int32), ends, len(head)


def _with_whole_offsets(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """A tokenizer with the same ids whose tokens cover their white space too.

    Byte-level post-processors may trim spaces from the offsets (Llama 3's does): ":  " then seems to end at
    the colon, and an answer that begins with those spaces would lose its first token.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer")  # noqa: B009 (only fast tokenizers have it)
    if backend.post_processor is None:
        return tokenizer
    state = json.loads(backend.post_processor.__getstate__())
    if _untrimmed(state) == state:
        return tokenizer
    processor = copy.deepcopy(backend.post_processor)
    processor.__setstate__(json.dumps(_untrimmed(state)).encode())
    tokenizer = copy.deepcopy(tokenizer)  # the caller's stays as it is
    getattr(tokenizer, "backend_tokenizer").post_processor = processor  # noqa: B009
    return tokenizer


def _untrimmed(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: False if key == "trim_offsets" else _untrimmed(value) for key, value in state.items()}
    return [_untrimmed(value) for value in state] if isinstance(state, list) else state


def _named(rows: Sequence[AlpacaRow], most: int = 10) -> str:
    """`a.json, row 3; a.json, row 7; and 12 more`."""
    more = f"; and {len(rows) - most} more" if len(rows) > most else ""
    return "; ".join(row.where for row in rows[:most]) + more
