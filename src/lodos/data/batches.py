"""Examples to padded batches of few shapes.

A row of n token ids is n-1 predictions: the model reads `ids[:-1]` and position i predicts `ids[i+1]`. Every
shape that the model meets is compiled once, so rows are filled up to one of a few bucket lengths. Filler has
segment 0, position 0 and weight 0; weights come from what was trained, never from comparing ids with the pad
id.
"""

from collections.abc import Sequence

import numpy as np

from lodos.data.examples import TokenizedExample
from lodos.errors import UserError
from lodos.types import LmExample


def positions_needed(example: TokenizedExample) -> int:
    """How many positions of a batch the example takes: one less than its tokens."""
    return len(example.ids) - 1


def pad_batch(
    examples: Sequence[TokenizedExample], pad_id: int, length: int, batch_size: int | None = None
) -> LmExample:
    """One example a row, filled up to [`batch_size`, `length`]; numpy arrays, int32 and float32.

    Args:
        batch_size: rows of the batch; those beyond the examples are all filler. Defaults to the examples.

    Raises:
        UserError: when an example needs more than `length` positions.
    """
    size = len(examples) if batch_size is None else batch_size
    if len(examples) > size:
        raise ValueError(f"{len(examples)} examples do not fit into a batch of {size}")
    tokens = np.full((size, length), pad_id, np.int32)
    targets = np.full((size, length), pad_id, np.int32)
    loss_weight = np.zeros((size, length), np.float32)
    segment_ids = np.zeros((size, length), np.int32)
    positions = np.zeros((size, length), np.int32)
    for i, example in enumerate(examples):
        n = positions_needed(example)
        if n > length:
            raise UserError(f"{example.where}: needs {n} positions, the batch has {length}.")
        tokens[i, :n] = example.ids[:-1]
        targets[i, :n] = example.ids[1:]
        loss_weight[i, :n] = example.trained[1:]
        segment_ids[i, :n] = 1
        positions[i, :n] = np.arange(n)
    return LmExample(tokens, targets, loss_weight, segment_ids, positions)  # pyright: ignore[reportArgumentType]


def bucket_lengths(
    needed: Sequence[int], *, batch_size: int = 1, max_buckets: int = 4, multiple: int | None = None
) -> tuple[int, ...]:
    """The few batch lengths, ascending, that pad least when each batch takes the smallest that holds its
    longest row.

    With F(b) the share of rows that need at most b positions, a shuffled batch of s rows fits length b with
    probability F(b)^s; the expected length of a batch is minimised over all choices by dynamic programming.

    Args:
        needed: positions each example takes (`positions_needed`).
        multiple: every length is a multiple of it. Defaults to 64, or 8 where the longest row takes less than
            512.
    """
    longest = max(needed)
    step = multiple or (64 if longest >= 512 else 8)
    candidates = np.arange(1, -(-max(longest, 1) // step) + 1) * step  # ascending; the last holds every row
    fits = (np.searchsorted(np.sort(np.asarray(needed)), candidates, side="right") / len(needed)) ** batch_size
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


def smallest_that_holds(lengths: Sequence[int], examples: Sequence[TokenizedExample]) -> int:
    """The smallest of `lengths` (ascending) that the longest of `examples` fits."""
    longest = max(map(positions_needed, examples))
    return next(length for length in lengths if length >= longest)


def checked_lengths(lengths: Sequence[int], examples: Sequence[TokenizedExample]) -> tuple[int, ...]:
    """`lengths` ascending, without doubles.

    Raises:
        UserError: when an example fits none of them.
    """
    ascending = tuple(sorted(set(lengths)))
    longest = max(examples, key=positions_needed)
    if not ascending or positions_needed(longest) > ascending[-1]:
        raise UserError(
            f"{longest.where}: needs {positions_needed(longest)} positions, more than any of the batch "
            f"lengths {list(ascending)}. Raise the lengths or leave the row out with max_length."
        )
    return ascending
