"""Which examples share a row, so that rows of one length hold little filler.

Best-fit decreasing: the longest example first, each into the row where it leaves the least space, or into a new row
where none has space for it. That takes at most 11/9 of the fewest rows possible, and four more (D. S. Johnson et al.,
"Worst-case performance bounds for simple one-dimensional packing algorithms", 1974); where short examples are
plenty, next to no filler is left.

Only lengths matter, so a million examples are placed by the group: all examples of one length at once, into all rows
with the same space left. A row that has just taken an example has the least space of those that fit, so it takes the
next one too, as long as it can. With rows of 10 and the lengths 7, 6, 6, 3, 3, 2, 2, 2:

    length  examples  rows by space left, before         placed
    7       1         -                                  7
    6       2         3: [7]                             7 | 6 | 6
    3       2         3: [7], 4: [6] [6]                 7 3 | 6 3 | 6
    2       3         1: [6 3], 4: [6]                   7 3 | 6 3 | 6 2 2 | 2

It knows nothing of tokens: it sees how many positions each example takes.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lodos.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class RowPlan:
    """Rows of examples, each example in one row; `plan[i]` is which examples row i holds.

    Two flat arrays whatever the number of rows, so that a million examples take a few megabytes.
    """

    indices: np.ndarray
    """int64 [examples]: the examples of the first row, then those of the second, ..."""
    offsets: np.ndarray
    """int64 [rows + 1]: row i is `indices[offsets[i] : offsets[i + 1]]`; no row is empty."""

    @staticmethod
    def one_each(count: int) -> "RowPlan":
        """No packing: row i is example i."""
        return RowPlan(np.arange(count), np.arange(count + 1))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.indices[self.offsets[row] : self.offsets[row + 1]]

    def row_lengths(self, lengths: np.ndarray) -> np.ndarray:
        """Positions that each row fills, int64 [rows], from those of each example, int [examples]."""
        before = np.concatenate([[0], np.cumsum(lengths[self.indices], dtype=np.int64)])
        return np.diff(before[self.offsets])

    def efficiency(self, lengths: np.ndarray, seq_len: int) -> float:
        """Real positions over all positions, when each row is filled up to `seq_len`."""
        return float(lengths.sum(dtype=np.int64) / (len(self) * seq_len)) if len(self) else 1.0


def pack(lengths: np.ndarray, seq_len: int, seed: int) -> RowPlan:
    """Packs examples into rows of `seq_len` positions by best-fit decreasing.

    The plan is a function of the arguments alone, the same with every version of NumPy.

    Args:
        lengths: int [examples], how many positions each takes. One that takes none has nothing to predict; it is
            placed all the same, as if it took one.
        seed: which of the examples of one length goes first.

    Raises:
        UserError: when an example is longer than a row.
    """
    if seq_len < 1:
        raise UserError(f"seq_len: {seq_len} must be at least 1.")
    lengths = np.maximum(lengths, 1)
    too_long = np.flatnonzero(lengths > seq_len)
    if len(too_long):
        longest = too_long[lengths[too_long].argmax()]
        raise UserError(
            f"example {longest} takes {lengths[longest]} positions, more than seq_len={seq_len}; so do "
            f"{len(too_long) - 1} others. Raise seq_len or leave them out."
        )
    # NumPy promises that this bit stream never changes, which it does not of what `Generator` draws.
    ties = np.random.PCG64(seed).random_raw(len(lengths))
    order = np.lexsort((ties, -lengths))
    row_of = _best_fit(lengths[order], seq_len)
    by_row = np.argsort(row_of, kind="stable")
    return RowPlan(order[by_row], np.concatenate([[0], np.cumsum(np.bincount(row_of))]))


def _best_fit(descending: np.ndarray, seq_len: int) -> np.ndarray:
    """The row that each example goes to, int64 [examples], from their positions, longest first."""
    row_of = np.empty(len(descending), np.int64)
    rows, new_row = _Rows(), 0
    starts = np.flatnonzero(np.diff(descending, prepend=0))
    bounds = pairwise([*starts.tolist(), len(descending)])
    for length, (start, end) in zip(descending[starts].tolist(), bounds, strict=True):
        while start < end:
            space = rows.least_space(length)
            if space is None:
                space, needed = seq_len, _ceil_div(end - start, seq_len // length)
                rows.put(list(range(new_row, new_row + needed)), seq_len)
                new_row += needed
            each = space // length
            chosen = rows.take(space, at_most=_ceil_div(end - start, each))
            placed = min(end - start, len(chosen) * each)
            row_of[start : start + placed] = np.repeat(chosen, each)[:placed]
            rows.put(chosen[:-1], space - each * length)
            in_last = placed - (len(chosen) - 1) * each
            rows.put(chosen[-1:], space - in_last * length)
            start += placed
    return row_of


class _Rows:
    """Rows with space left, by how much."""

    def __init__(self) -> None:
        self._by_space: dict[int, list[int]] = {}
        self._spaces = 0
        """Bit s is set where `_by_space[s]` holds a row."""

    def least_space(self, length: int) -> int | None:
        """The least space of all rows that `length` fits into; None if it fits into none."""
        fitting = self._spaces >> length
        lowest_bit = (fitting & -fitting).bit_length() - 1
        return length + lowest_bit if fitting else None

    def put(self, rows: list[int], space: int) -> None:
        if rows and space:
            self._by_space.setdefault(space, []).extend(rows)
            self._spaces |= 1 << space

    def take(self, space: int, at_most: int) -> list[int]:
        """Some of the rows with exactly this space."""
        there = self._by_space[space]
        taken = there[-at_most:]
        del there[-at_most:]
        if not there:
            self._spaces ^= 1 << space
        return taken


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
