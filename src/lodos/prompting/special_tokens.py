"""Where special tokens stand in a text, and how to read some of them as plain characters.

A tokenizer takes "<|im_end|>" for the one token that ends a turn wherever it stands, also in a row that talks about
chat templates, or was written by someone who wants to end the turn there. What a template writes is meant; what a
row's own fields spell rarely is. So it is found in the fields and reported, and can be encoded as text:

    text:       <|im_start|>user\\nWhat is <|im_end|>?<|im_end|>
    meant:      ------------                         ----------
    the row's:                        ----------

A prompt is read as rows were.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Characters `[start, end)` of a text."""

# Stand-ins for special tokens are made of characters that Unicode leaves to private use.
_FIRST_STANDIN, _FILLER = 0xF0000, "\U0010fffd"
_PRIVATE = re.compile("[\U000f0000-\U0010fffd]")

# Put around special tokens to find them in a rendering: noncharacters, which no text is to hold.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_MARKED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")


class SpecialTokens:
    """The special tokens of a tokenizer as it matches them: longest first, from the left. Can be pickled.

    Added tokens that are not marked special (`<think>` of Qwen3) are ordinary content and not among them.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self.tokens: tuple[str, ...] = tuple(sorted(added, key=lambda token: (-len(token), token)))
        # Nothing is special to a tokenizer without special tokens; an empty alternation would match everywhere.
        self.pattern: re.Pattern[str] = re.compile("|".join(map(re.escape, self.tokens)) or r"(?!)")

    def spans(self, text: str) -> tuple[Span, ...]:
        """Where they stand in `text`, ascending."""
        return tuple(match.span() for match in self.pattern.finditer(text))

    def end(self, text: str) -> bool:
        """Whether `text` ends in one."""
        return text.endswith(self.tokens) if self.tokens else False

    def last(self, text: str) -> str | None:
        """The one that `text` ends in, if it does."""
        return next((token for token in self.tokens if text.endswith(token)), None) if self.end(text) else None

    def in_row_text(self, pieces: Sequence[tuple[str, bool]]) -> tuple[Span, ...]:
        """Where they stand in the joined pieces, but for those that a template wrote whole.

        Args:
            pieces: (text, whether it is the row's own rather than the template's).
        """
        found = self.spans("".join(text for text, _ in pieces))
        if not found:
            return ()
        written = list(_template_spans(pieces))
        return tuple(
            (start, end) for start, end in found if not any(low <= start and end <= high for low, high in written)
        )

    def in_messages(
        self, render: Callable[[Any, Any], str], messages: Any, tools: Any, whole: str
    ) -> tuple[Span, ...] | list[str]:
        """Where they stand in the rendering `whole` because messages and tools, rather than the template, spell them.

        Args:
            render: the chat template, of messages and tools.

        Returns:
            The spans; or, where the template changes such texts so that their places cannot be told, the tokens.
        """
        found: set[str] = set()
        marked_messages, marked_tools = self._marked(messages, found), self._marked(tools, found)
        if not found:
            return ()
        marked = render(marked_messages, marked_tools)
        if _MARKED.sub(r"\1", marked) != whole:
            return sorted(found)
        # The k-th match stands 2k marks further than in the text without marks.
        return tuple((m.start() - 2 * k, m.end() - 2 * k - 2) for k, m in enumerate(_MARKED.finditer(marked)))

    def _marked(self, value: Any, found: set[str]) -> Any:
        """`value` with marks around each in its texts (not in its keys), which are noted in `found`."""
        if isinstance(value, str):

            def mark(match: re.Match[str]) -> str:
                found.add(match[0])
                return f"{_OPEN}{match[0]}{_CLOSE}"

            return self.pattern.sub(mark, value)
        if isinstance(value, Mapping):
            return {key: self._marked(item, found) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._marked(item, found) for item in value]
        return value


def _template_spans(pieces: Sequence[tuple[str, bool]]) -> Iterator[Span]:
    start = 0
    for text, from_row in pieces:
        if not from_row:
            yield start, start + len(text)
        start += len(text)


class SpecialTokensAsText:
    """Encodes texts of which some special tokens are to be read as characters.

    A tokenizer can be told to read ALL special tokens as text, so those that are meant are put in as stand-ins first:
    an added token of as many private-use characters, whose id is exchanged for the true one afterwards. Thus the text
    is still tokenized as a whole, cut where it always is, and offsets stay as they are.

    Args:
        backend: of the `tokenizers` library; it is copied.
    """

    def __init__(self, backend: Any, special: SpecialTokens) -> None:
        from tokenizers import AddedToken

        self._special = special
        self._backend = copy.deepcopy(backend)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
        self._standin = {
            token: chr(_FIRST_STANDIN + i) + _FILLER * (len(token) - 1) for i, token in enumerate(special.tokens)
        }
        self._backend.add_tokens(
            [
                AddedToken(
                    standin,
                    special=False,
                    normalized=False,
                    **{flag: getattr(added.get(token), flag, False) for flag in ("lstrip", "rstrip", "single_word")},
                )
                for token, standin in self._standin.items()
            ]
        )
        self._true_id = np.arange(max(self._backend.get_vocab().values()) + 1, dtype=np.int32)
        for token, standin in self._standin.items():
            self._true_id[self._backend.token_to_id(standin)] = backend.token_to_id(token)
        self._special_ids = {backend.token_to_id(token) for token in special.tokens}

    def encode(self, text: str, as_text: Sequence[Span], *, add_special_tokens: bool) -> tuple[Any, np.ndarray] | None:
        """The encoding (its offsets and sequence marks hold, its ids do not) and the ids int32 [tokens].

        Args:
            as_text: spans of special tokens, as from `SpecialTokens.spans`, to be read as characters.

        None where the tokenizer's own vocabulary puts the characters together to the special token again, or the text
        holds private-use characters of the stand-ins.
        """
        if _PRIVATE.search(text):
            return None
        given = set(as_text)
        prepared = self._special.pattern.sub(
            lambda match: match[0] if match.span() in given else self._standin[match[0]], text
        )
        encoding = self._backend.encode(prepared, add_special_tokens=add_special_tokens)
        ids = self._true_id[np.array(encoding.ids, np.int32)]
        for start, end in as_text:
            covering = {encoding.char_to_token(char) for char in range(start, end)} - {None}
            if any(int(ids[token]) in self._special_ids for token in covering):
                return None
        return encoding, ids
