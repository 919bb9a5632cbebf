"""Examples to batches of few shapes.

An example of n token ids is n-1 predictions: the model reads `ids[:-1]` and position i predicts `ids[i+1]`. A row
holds one example, or several one after another, each a segment whose positions start at 0. Every shape that the
model meets is compiled once, so rows are filled up to one of a few lengths. Filler has segment 0, position 0 and
weight 0; weights come from what was trained, never from comparing ids with the pad id.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lodos.data.examples import TokenizedExample
from lodos.errors import UserError
from lodos.types import LmExample


def positions_needed(examples: Sequence[TokenizedExample]) -> np.ndarray:
    """How many positions of a row each example takes, int64 [examples]: one less than its tokens.

    Examples that know their token counts, `examples.lengths`, are not read.
    """
    lengths: Any = getattr(examples, "lengths", None)
    if lengths is None:
        lengths = np.fromiter((len(example.ids) for example in examples), np.int64, len(examples))
    return np.maximum(np.asarray(lengths, np.int64) - 1, 0)


def make_batch(
    rows: Sequence[Sequence[TokenizedExample]], *, pad_id: int, length: int, batch_size: int | None = None
) -> LmExample:
    """The examples of each row one after another, filled up to [`batch_size`, `length`]; numpy, int32 and float32.

    Args:
        batch_size: rows of the batch; those beyond `rows` are all filler. Defaults to `rows`.

    Raises:
        UserError: when the examples of a row need more than `length` positions.
    """
    size = len(rows) if batch_size is None else batch_size
    if len(rows) > size:
        raise ValueError(f"{len(rows)} rows do not fit into a batch of {size}")
    tokens = np.full((size, length), pad_id, np.int32)
    targets = np.full((size, length), pad_id, np.int32)
    loss_weight = np.zeros((size, length), np.float32)
    segment_ids = np.zeros((size, length), np.int32)
    positions = np.zeros((size, length), np.int32)
    for i, row in enumerate(rows):
        end = 0
        for segment, example in enumerate(row, 1):
            n = max(len(example.ids) - 1, 0)
            start, end = end, end + n
            if end > length:
                before = f" after {start} of others" if start else ""
                raise UserError(f"{example.where}: needs {n} positions{before}, the batch has {length}.")
            tokens[i, start:end] = example.ids[:-1]
            targets[i, start:end] = example.ids[1:]
            loss_weight[i, start:end] = example.trained[1:]
            segment_ids[i, start:end] = segment
            positions[i, start:end] = np.arange(n)
    return LmExample(tokens, targets, loss_weight, segment_ids, positions)  # pyright: ignore[reportArgumentType]


def expected_length(needed: np.ndarray, lengths: Sequence[int], *, batch_size: int) -> float:
    """The mean length of shuffled batches, each of the smallest of `lengths` that holds its longest row.

    Args:
        needed: positions each row takes, int [rows].
        lengths: ascending; the last holds every row.
    """
    fits = _fitting_share(needed, np.asarray(lengths), batch_size)
    return float(np.dot(lengths, np.diff(fits, prepend=0.0)))


def bucket_lengths(
    needed: np.ndarray, *, batch_size: int = 1, max_buckets: int = 4, multiple: int | None = None
) -> tuple[int, ...]:
    """The few batch lengths, ascending, that pad least when each batch takes the smallest that holds its
    longest row.

    That is, those of least `expected_length`, found over all choices by dynamic programming.

    Args:
        needed: positions each row takes, int [rows].
        multiple: every length is a multiple of it. Defaults to 64, or 8 where the longest row takes less than
            512.
    """
    longest = int(needed.max())
    step = multiple or (64 if longest >= 512 else 8)
    candidates = np.arange(1, -(-max(longest, 1) // step) + 1) * step  # ascending; the last holds every row
    fits = _fitting_share(needed, candidates, batch_size)
    # cost[j]: expected positions of the batches that fit j, with j the last of the buckets chosen so far.
    cost, chosen = candidates * fits, [[j] for j in range(len(candidates))]
    for _ in range(1, max_buckets):
        # via[i, j]: batches that fit i as before, those that fit j only are padded to j.
        via = cost[:, None] + candidates[None, :] * (fits[None, :] - fits[:, None])
        via[np.tril_indices(len(candidates))] = np.inf
        best = via.argmin(axis=0)
        better = via[best, np.arange(len(candidates))] < cost
        chosen = [[*chosen[best[j]], j] if better[j] else chosen[j] for j in range(len(candidates))]
        cost = np.where(better, via[best, np.arange(len(candidates))], cost)
    return tuple(int(candidates[j]) for j in chosen[-1])


def smallest_that_holds(lengths: Sequence[int], needed: int) -> int:
    """The smallest of `lengths` (ascending) that has `needed` positions."""
    return next(length for length in lengths if length >= needed)


def _fitting_share(needed: np.ndarray, lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """The share of batches that fit each length, float [lengths].

    With F(b) the share of rows that need at most b positions, a shuffled batch of s rows fits length b with
    probability F(b)^s.
    """
    return (np.searchsorted(np.sort(needed), lengths, side="right") / len(needed)) ** batch_size
