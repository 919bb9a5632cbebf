"""The order of training, and batches read ahead.

Grain gives the order: the rows are shuffled by seed, again and differently each epoch, and repeated for ever;
that endless list is cut into batches. All of it has random access, so batch k is a pure function of (data,
seed, k): resuming at step k starts there and reads nothing before it, and neither the device count nor the
microbatch size has a part in it.

An epoch is `len(examples)` rows, each exactly once. A batch may hold the end of one epoch and the beginning
of the next, so no row is dropped and no batch is short, also when there are fewer rows than a batch has
places.

Knows nothing of models or of how the batch is spread over devices.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

from lodos.data.batches import (
    bucket_lengths,
    checked_lengths,
    pad_batch,
    positions_needed,
    smallest_that_holds,
)
from lodos.data.examples import TokenizedExample
from lodos.errors import UserError
from lodos.types import LmExample

READ_AHEAD = 2
"""Batches made in the background while the device is busy."""


class TrainLoader:
    """Endless shuffled batches; `loader[k]` is batch k, and iterating starts at 0.

    Each batch is as long as the smallest of `lengths` that holds its longest row.
    """

    def __init__(
        self,
        examples: Sequence[TokenizedExample],
        *,
        batch_size: int,
        pad_id: int,
        seed: int,
        lengths: Sequence[int] | None = None,
    ):
        """
        Args:
            lengths: the batch lengths to choose from, hence the shapes compiled; by default at most four,
                chosen to pad least.

        Raises:
            UserError: for no examples, a batch size below 1, a seed Grain does not take, or an example longer
                than every length.
        """
        _check(examples, batch_size)
        if not 0 <= seed < 2**32:
            raise UserError(f"seed: {seed} must be at least 0 and below 2**32.")
        self.examples = examples
        self.batch_size = batch_size
        self.pad_id = pad_id
        self.lengths = (
            bucket_lengths([positions_needed(e) for e in examples], batch_size=batch_size)
            if lengths is None
            else checked_lengths(lengths, examples)
        )

        import grain  # takes over a second, so only who trains pays for it

        order = grain.MapDataset.range(len(examples)).seed(seed).shuffle().repeat(reseed_each_epoch=True)
        self._rows = order.batch(batch_size, batch_fn=list)
        self._batches = self._rows.map(self._batch)

    @property
    def batches_per_epoch(self) -> float:
        """How many batches it takes to see each row once; not whole when a batch straddles two epochs."""
        return len(self.examples) / self.batch_size

    def steps_for_epochs(self, epochs: float) -> int:
        """Batches until `epochs` times all rows were seen; the last batch may begin the next epoch."""
        # A decimal such as 1.1 is not exact in binary, and its error must not add a step.
        return math.ceil(Fraction(epochs).limit_denominator(10**6) * len(self.examples) / self.batch_size)

    def rows(self, k: int) -> list[int]:
        """Which examples batch k holds."""
        return [int(i) for i in self._rows[_step(k)] or ()]

    def __getitem__(self, k: int) -> LmExample:
        return self._batch(self._rows[_step(k)])

    def __iter__(self) -> Iterator[LmExample]:
        return self.iter_from_step(0)

    def iter_from_step(self, k: int) -> Iterator[LmExample]:
        """Batches k, k+1, ... without making those before; a background thread reads ahead."""
        import grain

        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=READ_AHEAD)
        return iter(self._batches[_step(k) :].to_iter_dataset(options))

    def _batch(self, rows: Sequence[int] | None) -> LmExample:
        assert rows is not None  # Grain's word for a row filtered out; none is
        chosen = [self.examples[i] for i in rows]
        return pad_batch(chosen, self.pad_id, smallest_that_holds(self.lengths, chosen))


class EvalLoader:
    """Each example once, in the same order each time.

    The sums of an evaluation do not depend on order, so rows of like length go together, which pads least;
    the longest come first, so that a lack of memory shows at once. The last batch is filled up with rows of
    weight zero, so it has no shape of its own.
    """

    def __init__(
        self,
        examples: Sequence[TokenizedExample],
        *,
        batch_size: int,
        pad_id: int,
        lengths: Sequence[int] | None = None,
    ):
        """
        Args:
            lengths: the batch lengths to choose from, such as the train loader's; by default at most four of
                the examples' own.

        Raises:
            UserError: for no examples, a batch size below 1, or an example longer than every length.
        """
        _check(examples, batch_size)
        self.examples = examples
        self.batch_size = batch_size
        self.pad_id = pad_id
        self.lengths = (
            bucket_lengths([positions_needed(e) for e in examples])
            if lengths is None
            else checked_lengths(lengths, examples)
        )
        self._order = sorted(range(len(examples)), key=lambda i: -len(examples[i].ids))

    def __len__(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def rows(self, k: int) -> list[int]:
        """Which examples batch k holds."""
        if not 0 <= k < len(self):
            raise IndexError(f"batch {k} of {len(self)}")
        return self._order[k * self.batch_size : (k + 1) * self.batch_size]

    def __getitem__(self, k: int) -> LmExample:
        chosen = [self.examples[i] for i in self.rows(k)]
        return pad_batch(chosen, self.pad_id, smallest_that_holds(self.lengths, chosen), self.batch_size)

    def __iter__(self) -> Iterator[LmExample]:
        return (self[k] for k in range(len(self)))


def _check(examples: Sequence[TokenizedExample], batch_size: int) -> None:
    if not examples:
        raise UserError("There are no examples to make batches of.")
    if batch_size < 1:
        raise UserError(f"batch_size: {batch_size} must be at least 1.")


def _step(k: int) -> int:
    if k < 0:
        raise IndexError(f"batch {k}: batches are numbered from 0")
    return k
