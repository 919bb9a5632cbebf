"""What the loaders of training and evaluation have in common: rows of examples, and a host's share of a batch.

Knows nothing of the order of rows, which is what the two differ in.
"""

from collections.abc import Sequence

import numpy as np

from lodos.data.batching.batches import bucket_lengths, make_batch, positions_needed, smallest_that_holds
from lodos.data.batching.packing import RowPlan, pack
from lodos.data.examples import TokenizedExample
from lodos.errors import UserError
from lodos.types import LmExample


class BatchMaker:
    """Examples in rows, and batches of any of these rows.

    Args:
        examples: read one by one as batches are made; where they have `lengths`, their token counts, nothing is read
            before.
        batch_size: rows of a global batch.
        seed: for packing.
        lengths: the batch lengths to choose from; by default at most four, chosen to pad least.
        drawn_together: how many rows of a batch come together by chance, for that choice; 1 where like goes with like.
        seq_len: packs the examples into rows of so many positions; None has a row for each.
        host_index: from 0, which of `host_count` equal slices of each batch is made.

    Raises:
        UserError: for no examples, a batch size below 1 or one that the hosts do not divide, both of `lengths` and
            `seq_len`, or an example longer than every length.
    """

    def __init__(
        self,
        examples: Sequence[TokenizedExample],
        *,
        batch_size: int,
        pad_id: int,
        seed: int,
        lengths: Sequence[int] | None,
        drawn_together: int,
        seq_len: int | None,
        host_index: int,
        host_count: int,
    ):
        if len(examples) == 0:
            raise UserError("There are no examples to make batches of.")
        if batch_size < 1:
            raise UserError(f"batch_size: {batch_size} must be at least 1.")
        if batch_size % host_count:
            raise UserError(f"batch_size: {batch_size} rows cannot be shared equally by {host_count} hosts.")
        if not 0 <= host_index < host_count:
            raise UserError(f"host_index: {host_index} is not one of {host_count} hosts, numbered from 0.")
        if seq_len is not None and lengths is not None:
            raise UserError(f"seq_len: {seq_len} packs into rows of one length, so lengths cannot be given as well.")

        needed = positions_needed(examples)
        if seq_len is not None:
            lengths = (seq_len,)
        elif lengths is None:
            lengths = bucket_lengths(needed, batch_size=drawn_together)
        self.lengths = tuple(sorted(set(lengths)))
        """The lengths that batches have, ascending."""
        _refuse_too_long(examples, needed, self.lengths)
        self.plan = RowPlan.one_each(len(examples)) if seq_len is None else pack(needed, seq_len, seed)
        self.row_lengths = self.plan.row_lengths(needed)
        """Real positions of each row, int64 [rows]."""
        self._examples = examples
        self._pad_id = pad_id
        self._share_size = batch_size // host_count
        self._share = slice(host_index * self._share_size, (host_index + 1) * self._share_size)

    def examples_of(self, batch_rows: Sequence[int]) -> list[list[int]]:
        """Which examples this host's rows of a global batch hold."""
        return [self.plan[row].tolist() for row in batch_rows[self._share]]

    def length_of(self, batch_rows: Sequence[int]) -> int:
        """Positions of a global batch, which every host comes to. No example is read for it."""
        return smallest_that_holds(self.lengths, max(self.row_lengths[row] for row in batch_rows))

    def make(self, batch_rows: Sequence[int]) -> LmExample:
        """This host's share of a global batch; rows that are missing at its end are filler."""
        length = self.length_of(batch_rows)
        rows = [[self._examples[i] for i in row] for row in self.examples_of(batch_rows)]
        return make_batch(rows, pad_id=self._pad_id, length=length, batch_size=self._share_size)


def _refuse_too_long(examples: Sequence[TokenizedExample], needed: np.ndarray, lengths: Sequence[int]) -> None:
    too_long = np.flatnonzero(needed > max(lengths, default=0))
    if len(too_long):
        longest = int(too_long[needed[too_long].argmax()])
        others = f" {len(too_long) - 1} others are too long as well." if len(too_long) > 1 else ""
        raise UserError(
            f"{examples[longest].where}: needs {needed[longest]} positions, more than any of the batch lengths "
            f"{list(lengths)}.{others} Raise the length or leave such rows out with a lower max_tune_length."
        )
