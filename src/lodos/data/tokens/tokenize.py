"""Texts to token ids, and which of them are trained.

The whole text of a row is tokenized at once, as the model will meet it. Tokenizing prompt and answer apart would forbid
merges across the border (a colon and a quotation mark are one token of Llama 2) and, with SentencePiece, put a space
before the answer. Which characters are trained is known, and the tokenizer says which characters each token covers, so

    text:            "### Response:The cat", trained [13, 20)
    tokens:          BOS  ▁###  ▁Response   :  The  ▁cat  EOS
    covers:            -   0-3       3-12  12  13-16  16-20  -
    trained:           -     -          -   -    x     x    x      those that cover a trained character

A token that covers the border is trained: it holds answer characters, and a model that is to answer must be able to say
it. The end of the sequence is trained in its own right, by place and not by id, so a pad token that shares its id hides
nothing. A chat template has written BOS and the ends of turns itself; then nothing is added, and the ids are those of
`apply_chat_template(tokenize=True)`.

SentencePiece tokenizers and offsets: the "▁" put before the text counts as its first character, which always is the
prompt's. A "▁" inside a text stands for the space before its word, so when a template ends in a space the first answer
token covers the border and is trained. All byte tokens of one character carry its offsets.

Speed: nearly all time is spent in the tokenizers library. What is done here for each row is a binary search for each
border of what is trained, never work for each token.
"""

import bisect
import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lodos.data.examples import TextExample, TokenizedExample
from lodos.errors import UserError
from lodos.prompting.special_tokens import SpecialTokens, SpecialTokensAsText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Overflow = Literal["drop", "error", "truncate"]

TOO_LONG = "too long"
NOTHING_TRAINED = "no trained token"
NOT_AS_TEXT = "special tokens that cannot be read as text"

ROWS_PER_CALL = 1000
"""Rows handed to the tokenizer at once: enough for all its threads, few enough to hold their offsets."""

SHOWN_ROWS = 10


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that cannot be trained, and why."""

    file: str
    number: int
    """Which row of `file` it was."""
    reason: str
    """TOO_LONG, NOTHING_TRAINED or NOT_AS_TEXT: what rows are counted by."""
    detail: str
    """The numbers: `312 tokens, more than max_tune_length=256`."""

    @property
    def where(self) -> str:
        return f"{self.file}, row {self.number}"


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


def tokenize_examples(
    examples: Sequence[TextExample],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    overflow: Overflow = "drop",
    special_tokens_as_text: bool = False,
) -> list[TokenizedExample | Dropped]:
    """The tokens of each example, or why it has none, in order. `ExampleTokenizer` for many calls."""
    tokenize = ExampleTokenizer(
        tokenizer, max_length=max_length, overflow=overflow, special_tokens_as_text=special_tokens_as_text
    )
    return tokenize(examples)


class ExampleTokenizer:
    """Tokenizes examples; made once, called with as many as there are. Can be pickled.

    Args:
        max_length: most tokens of a row, BOS and EOS included.
        overflow: what becomes of longer rows: dropped; refused; or cut at the end, without an EOS that the text does
            not have, and dropped if no trained token is left.
        special_tokens_as_text: encode the special tokens that a row's own fields spell as plain characters.

    Raises:
        UserError: for a slow tokenizer, or one that does more than its tokenizer.json says.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_length: int,
        overflow: Overflow = "drop",
        special_tokens_as_text: bool = False,
    ) -> None:
        if not tokenizer.is_fast:
            raise UserError(
                f"{type(tokenizer).__name__} is a slow tokenizer, which cannot say which characters a token "
                "covers. Use one with a tokenizer.json."
            )
        if overflow not in ("drop", "error", "truncate"):
            raise UserError(f"overflow: {overflow!r} is not one of drop, error, truncate.")
        if max_length < 2:
            raise UserError(f"max_tune_length: {max_length} must be at least 2: one token is never predicted.")
        self._max_length = max_length
        self._overflow = overflow
        self._special = SpecialTokens(tokenizer) if special_tokens_as_text else None
        self._as_text: SpecialTokensAsText | None = None  # made when the first row needs it
        self._bos, self._eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._backend = _with_whole_offsets(tokenizer)
        probe = self._backend.encode("a", add_special_tokens=True)
        added = probe.special_tokens_mask
        self._front = added.index(0) if 0 in added else 0
        """How many tokens the tokenizer puts in front of a text."""
        self._back = added[::-1].index(0) if 0 in added else 0
        """And behind it."""
        if probe.ids != list(tokenizer("a")["input_ids"]):
            raise UserError(
                f"{type(tokenizer).__name__} gives other tokens than its tokenizer.json ({probe.ids} for 'a'), so it "
                "cannot be said which characters they cover. Use a plain PreTrainedTokenizerFast."
            )

    def __call__(self, examples: Sequence[TextExample]) -> list[TokenizedExample | Dropped]:
        """The tokens of each example, or why it has none, in order.

        Raises:
            UserError: under `overflow="error"`, naming the rows that are too long; for a tokenizer without EOS when the
                texts need one.
        """
        done: dict[int, TokenizedExample | Dropped] = {}
        for start in range(0, len(examples), ROWS_PER_CALL):
            done.update(self._chunk(range(start, min(start + ROWS_PER_CALL, len(examples))), examples))
        results = [done[i] for i in range(len(examples))]
        if self._overflow == "error":
            self._refuse_long(results)
        return results

    def _chunk(
        self, chunk: Iterable[int], examples: Sequence[TextExample]
    ) -> Iterable[tuple[int, TokenizedExample | Dropped]]:
        """Encodes rows of a kind together. The kinds: special tokens to add or not, offsets needed or not."""
        kinds: dict[tuple[bool, bool], list[int]] = {}
        for i in chunk:
            example = examples[i]
            if self._special is not None and example.special_tokens:
                yield i, self._read_as_text(example, self._special)
            else:
                kinds.setdefault((not example.has_special_tokens, _is_all(example)), []).append(i)
        for (add_special_tokens, whole), members in kinds.items():
            # Offsets take a sixth of the time; where all is trained, nobody asks for them.
            encode = self._backend.encode_batch_fast if whole else self._backend.encode_batch
            encodings = encode([examples[i].text for i in members], add_special_tokens=add_special_tokens)
            for i, encoding in zip(members, encodings, strict=True):
                yield i, self._tokenized(examples[i], encoding, np.array(encoding.ids, np.int32))

    def _read_as_text(self, example: TextExample, special: SpecialTokens) -> TokenizedExample | Dropped:
        self._as_text = self._as_text or SpecialTokensAsText(self._backend, special)
        found = self._as_text.encode(
            example.text, example.special_tokens, add_special_tokens=not example.has_special_tokens
        )
        if found is None:
            spelled = dict.fromkeys(example.text[start:end] for start, end in example.special_tokens)
            return Dropped(
                example.file,
                example.number,
                NOT_AS_TEXT,
                f"the tokenizer makes {', '.join(spelled)} of these characters in any case",
            )
        return self._tokenized(example, *found)

    def _tokenized(self, example: TextExample, encoding: Any, ids: np.ndarray) -> TokenizedExample | Dropped:
        front, back = (0, 0) if example.has_special_tokens else (self._front, self._back)
        trained = _trained(example, encoding, len(ids), front, back)
        if not example.has_special_tokens:
            ids, trained = self._with_one_bos_and_eos(ids, trained, front, back)
        if len(trained):
            trained[0] = False  # nothing predicts it
        length = len(ids)
        if length > self._max_length:
            if self._overflow != "truncate":
                detail = f"{length} tokens, more than max_tune_length={self._max_length}"
                return Dropped(example.file, example.number, TOO_LONG, detail)
            ids, trained = ids[: self._max_length].copy(), trained[: self._max_length].copy()
        if not trained.any():
            return Dropped(
                example.file,
                example.number,
                NOTHING_TRAINED,
                f"all {length} tokens are context"
                if length == len(ids)
                else f"the first {len(ids)} of its {length} tokens are all context",
            )
        return TokenizedExample(ids, trained, example.file, example.number, cut=length - len(ids))

    def _with_one_bos_and_eos(
        self, ids: np.ndarray, trained: np.ndarray, front: int, back: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """One BOS and one trained EOS, whoever puts them there: the tokenizer, the text, or we."""
        eos = self._eos
        if not isinstance(eos, int):
            raise UserError(
                "The tokenizer has no EOS token, so the model could never learn to stop. "
                'Name it as "eos_token" in tokenizer_config.json.'
            )
        if front and len(ids) > front and ids[front - 1] == ids[front] == self._bos:
            ids, trained = np.delete(ids, front), np.delete(trained, front)
        if back and len(ids) > back and ids[-1] == ids[-2] == eos:
            ids, trained = ids[:-1], trained[:-1]
        if len(ids) and ids[-1] == eos:
            trained[-1] = True
            return ids, trained
        return np.append(ids, np.int32(eos)), np.append(trained, True)

    def _refuse_long(self, results: Sequence[TokenizedExample | Dropped]) -> None:
        long = [result for result in results if isinstance(result, Dropped) and result.reason == TOO_LONG]
        if long:
            raise UserError(
                f"{len(long)} of {len(results)} rows have more than max_tune_length={self._max_length} tokens: "
                f"{named(long)}. Raise max_length or shorten them."
            )


def named(rows: Sequence[Any], most: int = SHOWN_ROWS) -> str:
    """`a.json, row 3; a.json, row 7; and 12 more`, for anything with a `where`."""
    more = f"; and {len(rows) - most} more" if len(rows) > most else ""
    return "; ".join(row.where for row in rows[:most]) + more


def _is_all(example: TextExample) -> bool:
    return example.trained == ((0, len(example.text)),)


def _trained(example: TextExample, encoding: Any, length: int, front: int, back: int) -> np.ndarray:
    """bool [tokens]: whether a token covers a trained character, `front` and `back` tokens having no characters."""
    trained = np.zeros(length, bool)
    text = range(front, length - back)
    for start, end in example.trained:
        # Tokens are in the order of their characters. Ends of the text need no offsets: what the tokenizer puts there
        # goes with it.
        first = (
            0 if start == 0 else bisect.bisect_right(text, start, key=lambda i: encoding.token_to_chars(i)[1]) + front
        )
        if end == len(example.text):
            trained[first:] = True
        else:
            stop = bisect.bisect_left(text, end, key=lambda i: encoding.token_to_chars(i)[0]) + front
            trained[first:stop] = True
    return trained


def _with_whole_offsets(tokenizer: "PreTrainedTokenizerBase") -> Any:
    """A backend of the tokenizers library with the same ids, whose tokens cover their white space too. It cuts and pads
    nothing.

    Byte-level post-processors may trim spaces from the offsets (Llama 3's does): ":  " then seems to end at
    the colon, and an answer that begins with those spaces would lose its first token.
    """
    backend: Any = copy.deepcopy(getattr(tokenizer, "backend_tokenizer"))  # noqa: B009 (only fast tokenizers have it)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = False
    processor = backend.post_processor
    if processor is not None:
        state = json.loads(processor.__getstate__())
        if _untrimmed(state) != state:
            processor.__setstate__(json.dumps(_untrimmed(state)).encode())
            backend.post_processor = processor
    return backend


def _untrimmed(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: False if key == "trim_offsets" else _untrimmed(value) for key, value in state.items()}
    return [_untrimmed(value) for value in state] if isinstance(state, list) else state
