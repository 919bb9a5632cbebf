"""The order of training, and batches read ahead.

A row of a batch is one example, or several packed into `seq_len` positions; which examples share a row is decided
once, at the start. Grain gives the order: the rows are shuffled by seed, again and differently each epoch, and
repeated for ever; that endless list is cut into batches. All of it has random access, so batch k is a pure function
of (data, seed, k): resuming at step k starts there and reads nothing before it, and neither the device count nor the
microbatch size has a part in it.

An epoch is every row, hence every example, exactly once. A batch may hold the end of one epoch and the beginning of
the next, so no row is dropped and no batch is short, also when there are fewer rows than a batch has places.

Where several hosts feed one run, each has a loader of the same data and seed and makes only its share of a batch: a
slice of its rows, as long as the whole batch is. Put together in the order of the hosts, the shares are the batch
that one host alone would make.

Knows nothing of models or of how the batch is spread over devices.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from lodos.data.batching.batch_maker import BatchMaker
from lodos.data.batching.batches import expected_length
from lodos.data.examples import TokenizedExample
from lodos.errors import UserError
from lodos.prompting.description import Prompting
from lodos.types import LmExample

READ_AHEAD = 2
"""Batches made in the background while the device is busy."""

_ENDLESS = 2**30
"""Epochs. Grain repeats for ever to the largest index that there is, which batches of one row go beyond."""


class TrainLoader:
    """Endless shuffled batches; `loader[k]` is batch k, or this host's share of it, and iterating starts at 0.

    Each batch is `seq_len` long or, without packing, as long as the smallest of `lengths` that holds its longest row.
    """

    def __init__(
        self,
        examples: Sequence[TokenizedExample],
        *,
        batch_size: int,
        pad_id: int,
        seed: int,
        lengths: Sequence[int] | None = None,
        seq_len: int | None = None,
        host_index: int = 0,
        host_count: int = 1,
    ):
        """
        Args:
            examples: read one by one as batches are made; where they have `lengths`, their token counts, nothing is
                read before.
            batch_size: rows of the global batch.
            lengths: the batch lengths to choose from, hence the shapes compiled; by default at most four,
                chosen to pad least.
            seq_len: packs the examples into rows of so many positions; None has a row for each.
            host_index: from 0, which of `host_count` equal slices of each batch is made.

        Raises:
            UserError: for no examples, a batch size below 1 or one that the hosts do not divide, a seed Grain does
                not take, both of `lengths` and `seq_len`, or an example longer than every length.
        """
        if not 0 <= seed < 2**32:
            raise UserError(f"seed: {seed} must be at least 0 and below 2**32.")
        self._maker = BatchMaker(
            examples,
            batch_size=batch_size,
            pad_id=pad_id,
            seed=seed,
            lengths=lengths,
            drawn_together=batch_size,
            seq_len=seq_len,
            host_index=host_index,
            host_count=host_count,
        )
        self.examples = examples
        self.prompting: Prompting | None = getattr(examples, "prompting", None)
        """How a model has to be asked that is trained on them, where that is known."""
        self.batch_size = batch_size
        self.lengths = self._maker.lengths
        """The lengths that batches have, ascending."""
        self.row_count = len(self._maker.plan)
        """Rows of an epoch: as many as examples, or fewer when packed."""

        import grain  # takes over a second, so only who trains pays for it

        rows = grain.MapDataset.range(self.row_count).seed(seed).shuffle()
        order = rows.repeat(_ENDLESS, reseed_each_epoch=True)
        self._batch_rows = order.batch(batch_size, batch_fn=list)
        self._batches = self._batch_rows.map(self._batch)

    @property
    def efficiency(self) -> float:
        """Real positions over all positions; without packing, as is to be expected of shuffled batches."""
        row_lengths = self._maker.row_lengths
        return float(row_lengths.mean()) / expected_length(row_lengths, self.lengths, batch_size=self.batch_size)

    @property
    def batches_per_epoch(self) -> float:
        """How many batches it takes to see each row once; not whole when a batch straddles two epochs."""
        return self.row_count / self.batch_size

    def steps_for_epochs(self, epochs: float) -> int:
        """Batches until `epochs` times all rows were seen; the last batch may begin the next epoch."""
        # A decimal such as 1.1 is not exact in binary, and its error must not add a step.
        return math.ceil(Fraction(epochs).limit_denominator(10**6) * self.row_count / self.batch_size)

    def rows(self, k: int) -> list[list[int]]:
        """Which examples each row of `loader[k]` holds."""
        return self._maker.examples_of(self._batch_rows[_step(k)] or ())

    def origins(self, k: int) -> list[list[str]]:
        """File and row of the examples that each row of `loader[k]` holds."""
        return [[self.examples[i].where for i in row] for row in self.rows(k)]

    def length_of(self, k: int) -> int:
        """Positions of `loader[k]`, without making it."""
        return self._maker.length_of(self._batch_rows[_step(k)] or ())

    def __getitem__(self, k: int) -> LmExample:
        return self._batch(self._batch_rows[_step(k)])

    def __iter__(self) -> Iterator[LmExample]:
        return self.iter_from_step(0)

    def iter_from_step(self, k: int) -> Iterator[LmExample]:
        """Batches k, k+1, ... without making those before; a background thread reads ahead."""
        import grain

        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=READ_AHEAD)
        return iter(self._batches[_step(k) :].to_iter_dataset(options))

    def _batch(self, batch_rows: Sequence[int] | None) -> LmExample:
        assert batch_rows is not None  # Grain's word for a row filtered out; none is
        return self._maker.make(batch_rows)


class EvalLoader:
    """Each example once, in the same order each time.

    The sums of an evaluation do not depend on order, so rows of like length go together, which pads least; the
    longest come first, so that a lack of memory shows at once. The last batch is filled up with rows of weight zero,
    so it has no shape of its own.
    """

    def __init__(
        self,
        examples: Sequence[TokenizedExample],
        *,
        batch_size: int,
        pad_id: int,
        lengths: Sequence[int] | None = None,
        seq_len: int | None = None,
        host_index: int = 0,
        host_count: int = 1,
    ):
        """
        Args:
            examples: as for `TrainLoader`.
            batch_size: rows of the global batch.
            lengths: the batch lengths to choose from, such as the train loader's; by default at most four of
                the examples' own.
            seq_len: packs the examples into rows of so many positions; None has a row for each.
            host_index: from 0, which of `host_count` equal slices of each batch is made.

        Raises:
            UserError: for no examples, a batch size below 1 or one that the hosts do not divide, both of `lengths`
                and `seq_len`, or an example longer than every length.
        """
        settings: dict[str, Any] = dict(
            pad_id=pad_id, lengths=lengths, seq_len=seq_len, host_index=host_index, host_count=host_count
        )
        self._maker = BatchMaker(examples, batch_size=batch_size, seed=0, drawn_together=1, **settings)
        self._settings = settings
        self.examples = examples
        self.batch_size = batch_size
        self.lengths = self._maker.lengths
        """The lengths that batches have, ascending."""
        self._order = np.argsort(-self._maker.row_lengths, kind="stable")

    def with_batch_size(self, batch_size: int) -> "EvalLoader":
        """The same examples in batches of so many rows."""
        return EvalLoader(self.examples, batch_size=batch_size, **self._settings)

    def __len__(self) -> int:
        return -(-len(self._order) // self.batch_size)

    def rows(self, k: int) -> list[list[int]]:
        """Which examples each row of `loader[k]` holds, without the rows of filler at the end."""
        return self._maker.examples_of(self._batch_rows(k))

    def __getitem__(self, k: int) -> LmExample:
        return self._maker.make(self._batch_rows(k))

    def __iter__(self) -> Iterator[LmExample]:
        return (self[k] for k in range(len(self)))

    def _batch_rows(self, k: int) -> list[int]:
        if not 0 <= k < len(self):
            raise IndexError(f"batch {k} of {len(self)}")
        return self._order[k * self.batch_size : (k + 1) * self.batch_size].tolist()


def _step(k: int) -> int:
    if k < 0:
        raise IndexError(f"batch {k}: batches are numbered from 0")
    return k
