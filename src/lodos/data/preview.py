"""Rows token by token, as the model will read them: what each token says, and whether it is trained.

The text of a token is what it adds to the text before it, so the space of SentencePiece's "▁the" is there. A character
that takes several tokens (an emoji in bytes) is the text of the last of them; the others show PART.

Knows nothing of colours or pages.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lodos.data.examples import TokenizedExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PART = "‥"
"""Shown for a token that holds the beginning of a character only."""

LINE_END = "⏎"

_MOST_TOKENS_OF_A_CHARACTER = 4
_INCOMPLETE = "\ufffd"


@dataclasses.dataclass(frozen=True, slots=True)
class ShownToken:
    """One token."""

    id: int
    text: str
    """On one line: ends of lines are LINE_END, and characters that do not print are escaped as in Python."""
    is_trained: bool
    """Whether predicting it carries loss."""
    is_special: bool
    """Whether it is one of the tokenizer's special tokens, such as EOS."""
    ends_line: bool
    """Whether its text has an end of line."""

    @property
    def kind(self) -> str:
        """`trained`, `context`, `trained special` or `context special`."""
        return ("trained" if self.is_trained else "context") + (" special" if self.is_special else "")


@dataclasses.dataclass(frozen=True, slots=True)
class ShownRow:
    """One row, whole."""

    where: str
    """Its file and number."""
    tokens: tuple[ShownToken, ...]
    cut: int = 0
    """How many tokens truncation has left off its end."""

    @property
    def trained_count(self) -> int:
        return sum(token.is_trained for token in self.tokens)

    def ends(self, most: int) -> tuple[Sequence[ShownToken], int, Sequence[ShownToken]]:
        """The first tokens, how many are passed over, and the last: at most `most` in all, half from each end."""
        passed_over = len(self.tokens) - most
        if passed_over <= 0:
            return self.tokens, 0, ()
        head = most - most // 2
        return self.tokens[:head], passed_over, self.tokens[head + passed_over :]


def shown_row(example: TokenizedExample, tokenizer: "PreTrainedTokenizerBase") -> ShownRow:
    """An example as it can be shown."""
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    texts = token_texts(example.ids, tokenizer)
    return ShownRow(
        example.where,
        tuple(
            ShownToken(token_id, visible(text), is_trained, token_id in special, "\n" in text)
            for token_id, text, is_trained in zip(example.ids.tolist(), texts, example.trained.tolist(), strict=True)
        ),
        example.cut,
    )


def token_texts(ids: Iterable[int] | np.ndarray, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """What each token adds to the text before it."""
    added = tokenizer.added_tokens_decoder
    texts: list[str] = []
    pending: list[int] = []
    for token_id in map(int, ids):
        if token_id in added:
            texts.append(added[token_id].content)
            pending = []
            continue
        pending.append(token_id)
        text = _text_after_others(pending, tokenizer)
        if text.endswith(_INCOMPLETE) and len(pending) < _MOST_TOKENS_OF_A_CHARACTER:
            texts.append(PART)
        else:
            texts.append(text)
            pending = []
    return texts


def visible(text: str) -> str:
    """`text` on one line and harmless to a terminal: no control character or change of direction is left in it."""
    return "".join(
        LINE_END if char == "\n" else char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def _text_after_others(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    """The text of tokens in the middle of a text; at its beginning, decoders may take a space away."""
    before = tokenizer.encode("a", add_special_tokens=False)
    start, whole = _decoded(before, tokenizer), _decoded(before + ids, tokenizer)
    return whole[len(start) :] if whole.startswith(start) else _decoded(ids, tokenizer)


def _decoded(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
