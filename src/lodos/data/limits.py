"""What a model has no room for: tokens that its embedding has no row for, and rows longer than its positions.

An id beyond the embedding would be read as another token (or as NaN), and a position beyond those that the model knows
as one that it has never met; neither fails by itself. A tokenizer may well have more tokens than the model has rows, as
long as the data uses none of them.

Tokens come from the cache as well, for a base model of another size: so they are looked at here, when the model is
known, and not when they are made.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lodos.data.examples import TokenizedExample
from lodos.data.mixture import Selection, lengths_of
from lodos.data.tokens.store import ExampleStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN_ROWS = 5


@dataclass(frozen=True)
class ModelLimits:
    """How much a model can take."""

    vocab_size: int
    """Rows of its embedding."""
    positions: int
    """Positions it has, or is stretched to by its rope scaling."""

    def problems(
        self, examples: Iterable[Sequence[TokenizedExample]], tokenizer: "PreTrainedTokenizerBase"
    ) -> list[str]:
        """What is beyond it in examples, in words; empty when nothing is.

        Positions restart with every example, also in a packed row, so it is the longest example that counts.
        """
        parts = list(_parts(examples))
        return [*self._of_tokens(parts, tokenizer), *self._of_positions(parts)]

    def _of_tokens(
        self, parts: Sequence[Sequence[TokenizedExample]], tokenizer: "PreTrainedTokenizerBase"
    ) -> Iterator[str]:
        rows, named = 0, []
        for part in parts:
            if isinstance(part, ExampleStore) and part.largest_id < self.vocab_size:
                continue
            for example in part:
                beyond = np.unique(example.ids[example.ids >= self.vocab_size]).tolist()
                if not beyond:
                    continue
                rows += 1
                if len(named) < SHOWN_ROWS:
                    tokens = ", ".join(f"{tokenizer.convert_ids_to_tokens(token)!r} (id {token})" for token in beyond)
                    named.append(f"{example.where}: {tokens}")
        if rows:
            yield (
                f"{rows} row{'s have' if rows > 1 else ' has'} tokens beyond the {self.vocab_size} rows of the model's "
                f"embedding: {'; '.join(named)}{'; ...' if rows > len(named) else ''}. The tokenizer has "
                "tokens that were added to it and not to the model. Take the base model's own tokenizer, a model whose "
                "embedding has grown with it, or leave these tokens out of the rows and the chat template."
            )

    def _of_positions(self, parts: Sequence[Sequence[TokenizedExample]]) -> Iterator[str]:
        rows, longest, named = 0, 0, []
        for part in parts:
            lengths = lengths_of(part)
            # The last token is predicted and not read, so it takes no position.
            beyond = np.flatnonzero(lengths > self.positions + 1)
            rows += len(beyond)
            longest = max(longest, int(lengths.max(initial=0)))
            named += [part[int(i)].where for i in beyond[: SHOWN_ROWS - len(named)]]
        if rows:
            yield (
                f"{rows} row{'s are' if rows > 1 else ' is'} longer than the model's {self.positions} positions "
                f"(max_position_embeddings, with what rope_scaling makes of them); the longest has {longest} tokens: "
                f"{'; '.join(named)}{'; ...' if rows > len(named) else ''}. Set max_tune_length to "
                f"{self.positions + 1} or less, where overflow says what becomes of longer rows, or give the model's "
                "config.json a rope_scaling that reaches so far."
            )


def _parts(examples: Iterable[Sequence[TokenizedExample]]) -> Iterator[Sequence[TokenizedExample]]:
    """What the examples are chosen from, each once: held-out examples may be of the same store."""
    seen: set[int] = set()
    for one in examples:
        for part in one.parts if isinstance(one, Selection) else [one]:
            if id(part) not in seen:
                seen.add(id(part))
                yield part
