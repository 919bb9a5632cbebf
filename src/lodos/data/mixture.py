"""Several data sets as one: which examples an epoch is made of.

A weight says how often a set's examples occur in an epoch beside those of the other sets. Only their ratio counts: the
set of the least weight is seen once, and the others so many times as often.

    weights 1, 1       each example once: plain concatenation
    weights 1, 3       the second set's examples three times each
    weights 1, 2.5     twice each, and half of them, drawn by the seed, a third time

So nothing is ever left out, and the sets' shares of an epoch follow from their sizes times their weights. Which
examples occur is a plain array of indices; the loader shuffles it.
"""

from collections.abc import Sequence
from typing import overload

import numpy as np

from lodos.data.examples import TokenizedExample
from lodos.errors import UserError
from lodos.prompting.description import Prompting


def repeats(weights: Sequence[float]) -> list[float]:
    """How often each set's examples occur in an epoch, at least once.

    Raises:
        UserError: for a weight that is not a number above 0.
    """
    for weight in weights:
        if not 0 < weight < float("inf"):
            raise UserError(f"weight: {weight} must be a number above 0; take the data set out to leave it unused.")
    return [weight / min(weights) for weight in weights]


def mix(counts: Sequence[int], weights: Sequence[float], seed: int) -> np.ndarray:
    """The examples of an epoch: int64 [examples of the epoch], places in the concatenation of all sets, ascending.

    Args:
        counts: how many examples each set has.
        weights: one for each set; only their ratio counts.
        seed: draws which examples of a set make up the broken part of its repeats.

    Raises:
        UserError: for a weight that is not a number above 0.
    """
    # NumPy promises that RandomState's stream never changes, so neither does an epoch from one version to the next.
    draw = np.random.RandomState(seed % 2**32)
    parts = []
    start = 0
    for count, times in zip(counts, repeats(weights), strict=True):
        occurrences = np.full(count, int(times), np.int64)
        occurrences[draw.permutation(count)[: round((times - int(times)) * count)]] += 1
        parts.append(np.repeat(np.arange(start, start + count), occurrences))
        start += count
    return np.concatenate([np.empty(0, np.int64), *parts])


class Selection(Sequence[TokenizedExample]):
    """Examples of several sequences, by their places in the concatenation; a place may occur several times.

    Nothing is copied: an example is read when it is asked for.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[TokenizedExample]],
        indices: np.ndarray | None = None,
        *,
        prompting: Prompting | None = None,
    ):
        """
        Args:
            parts: where the examples are, one sequence after the other.
            indices: int64 [selected], which of them, in this order; by default each once.
            prompting: how a model has to be asked that is trained on them, where that is known.
        """
        self.prompting = prompting
        self.parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.indices: np.ndarray = np.arange(self._starts[-1]) if indices is None else indices
        lengths = np.concatenate([np.empty(0, np.int32), *(lengths_of(part) for part in parts)])
        self.lengths: np.ndarray = lengths[self.indices]
        """int32 [selected]: tokens of each."""

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> TokenizedExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenizedExample]: ...
    def __getitem__(self, index: int | slice) -> TokenizedExample | list[TokenizedExample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = self.indices[index]
        part = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self.parts[part][int(place - self._starts[part])]


def lengths_of(examples: Sequence[TokenizedExample]) -> np.ndarray:
    """int32 [examples]: the tokens of each; read from the examples only where they do not say."""
    known = getattr(examples, "lengths", None)
    return known if known is not None else np.array([len(example.ids) for example in examples], np.int32)
