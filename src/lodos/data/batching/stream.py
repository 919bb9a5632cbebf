"""Training on data larger than the disk: rows are read, tokenized and forgotten as training goes.

    sources, in turns  ->  chunks  ->  shuffle buffer  ->  rows of batches  ->  batches

What it gives up, next to `prepare` and `TrainLoader`:

- Order: an example moves by about as many places as the buffer holds, so a file that is sorted stays roughly sorted.
- Resume: batch k is still a function of (data, seed, k), but to make it everything before it is read again.
- Foresight: how many rows there are, and what is wrong with them, is known when they have been read. Training needs a
  number of steps, weights cannot repeat rows, and nothing is known of duplicates.
- Hosts: each reads everything, and takes its slice of each batch.

An epoch is still every row exactly once, and the next epoch has another order.
"""

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lodos.data.batching.batches import make_batch, positions_needed, smallest_that_holds
from lodos.data.batching.loader import READ_AHEAD
from lodos.data.batching.packing import RowPlan, pack
from lodos.data.batching.read_ahead import read_ahead
from lodos.data.config import DataArgs
from lodos.data.examples import TokenizedExample
from lodos.data.limits import ModelLimits
from lodos.data.reading.sources import DataSource, iter_rows, parse_sources
from lodos.data.report import FileReport, add_reports
from lodos.data.tokens.chunks import in_chunks
from lodos.data.tokens.source_store import RECOGNISED_ROWS, Options, refusing
from lodos.errors import UserError
from lodos.prompting.description import Prompting
from lodos.types import LmExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

logger = logging.getLogger(__name__)

PACKED_TOGETHER = 1000
"""Examples among which those that share a row are looked for: more would hardly leave less filler."""
_REMEMBERED = READ_AHEAD + 4
"""Batches of which it is known where their rows come from: those that are made ahead, and the last that were given."""


class ExampleStream:
    """The examples of one epoch after another, read from the sources each time."""

    def __init__(
        self, args: DataArgs, tokenizer: "PreTrainedTokenizerBase", *, seed: int, limits: ModelLimits | None = None
    ):
        """
        Args:
            limits: of the model; an example beyond them is an error when it is met.

        Raises:
            UserError: for what is wrong with the settings; and for weights, which need the number of rows.
        """
        self._sources = parse_sources(args.data)
        if len({source.weight for source in self._sources}) > 1:
            raise UserError(
                "data: weights say how often rows are repeated, for which their number has to be known, and data that "
                "is streamed is not counted. Leave the weights out, or set streaming to false."
            )
        self._options = Options.of(args, tokenizer)
        self._tokenizer = tokenizer
        self._buffer = args.shuffle_buffer
        self._seed = seed
        self._limits = limits
        self.reports: dict[str, FileReport] = {}
        """What became of the rows read so far in the latest epoch, by file."""

    def epoch(self, number: int) -> Iterator[TokenizedExample]:
        """Every example once, in the order of that epoch, from 0.

        Raises:
            UserError: when what is wrong with a file or a row is met, or when not one example is found.
        """
        self.reports = {}
        # NumPy promises that RandomState's stream never changes, so a resumed run replays what it has seen.
        draw = np.random.RandomState([self._seed % 2**32, number])
        found = False
        for example in shuffled(in_turns([self._examples(source) for source in self._sources]), self._buffer, draw):
            found = True
            yield example
        lines = [line for report in self.reports.values() for line in report.lines()]
        if not found:
            raise UserError("\n".join(["There are no rows to train on:", *lines]))
        for line in lines:
            logger.info("%s", line)

    def _examples(self, source: DataSource) -> Iterator[TokenizedExample]:
        chunks = in_chunks(iter_rows(source, stream=True))
        first = next(chunks, [])
        work = self._options.work(first[:RECOGNISED_ROWS], self._tokenizer)
        for chunk in refusing(map(work, itertools.chain([first], chunks)), at_most=1):
            for report in chunk.reports:
                known = self.reports.get(report.file)
                for reason, rows in report.dropped.items():
                    if known is None or reason not in known.dropped:
                        logger.warning("%s: rows are left out, %s, first row %d.", report.file, reason, rows.first[0])
            add_reports(self.reports, chunk.reports)
            if self._limits is not None and (problems := self._limits.problems([list(chunk.columns)], self._tokenizer)):
                raise UserError("\n".join(problems))
            yield from chunk.columns


class StreamLoader:
    """Endless batches of a stream; as much of `TrainLoader` as a stream allows.

    Each batch is `seq_len` long or, without packing, as long as the smallest of four lengths that holds its longest
    row: the longest there may be, and a half, a quarter and an eighth of it.
    """

    def __init__(
        self,
        stream: ExampleStream,
        *,
        batch_size: int,
        pad_id: int,
        seed: int,
        max_length: int,
        seq_len: int | None = None,
        host_index: int = 0,
        host_count: int = 1,
        prompting: Prompting | None = None,
    ):
        """
        Args:
            batch_size: rows of the global batch.
            max_length: most tokens of an example.
            seq_len: packs the examples into rows of so many positions; None has a row for each.
            host_index: from 0, which of `host_count` equal slices of each batch is made.
            prompting: how a model has to be asked that is trained on them, where that is known.

        Raises:
            UserError: for a batch size that the hosts do not divide.
        """
        if batch_size < 1 or batch_size % host_count:
            raise UserError(f"batch_size: {batch_size} rows cannot be shared equally by {host_count} hosts.")
        self._stream = stream
        self.prompting = prompting
        self._seed = seed
        self._pad_id = pad_id
        self._seq_len = seq_len
        self.batch_size = batch_size
        self.lengths = (seq_len,) if seq_len is not None else _four_lengths(max_length - 1)
        """The lengths that batches have, ascending."""
        self._origins: deque[tuple[int, list[list[str]]]] = deque(maxlen=_REMEMBERED)
        share = batch_size // host_count
        self._share = slice(host_index * share, (host_index + 1) * share)

    def __iter__(self) -> Iterator[LmExample]:
        return self.iter_from_step(0)

    def iter_from_step(self, k: int) -> Iterator[LmExample]:
        """Batches k, k+1, ..., made ahead by a thread; all that the earlier ones held is read again first."""
        if k:
            logger.warning("Data that is streamed has no random access: reading the rows of %d steps again.", k)
        return read_ahead(self._batches(k), READ_AHEAD)

    def origins(self, k: int) -> list[list[str]] | None:
        """File and row of the examples that each row of batch k holds; None of one that was made long ago."""
        return dict(self._origins).get(k)

    def _batches(self, k: int) -> Iterator[LmExample]:
        rows = itertools.chain.from_iterable(self._rows(epoch) for epoch in itertools.count())
        for number in itertools.count():
            batch = list(itertools.islice(rows, self.batch_size))
            if number >= k:
                self._origins.append((number, [[example.where for example in row] for row in batch[self._share]]))
                yield self._batch(batch)

    def _rows(self, epoch: int) -> Iterator[Sequence[TokenizedExample]]:
        """The rows of an epoch's batches, each of one example or several."""
        examples = self._stream.epoch(epoch)
        if self._seq_len is None:
            yield from ([example] for example in examples)
            return
        draw = np.random.RandomState([self._seed % 2**32, epoch])
        while window := list(itertools.islice(examples, PACKED_TOGETHER)):
            plan: RowPlan = pack(positions_needed(window), self._seq_len, self._seed)
            for row in draw.permutation(len(plan)):  # the plan has the longest first
                yield [window[i] for i in plan[int(row)]]

    def _batch(self, rows: Sequence[Sequence[TokenizedExample]]) -> LmExample:
        longest = max(int(positions_needed(row).sum()) for row in rows)
        mine = rows[self._share]
        length = smallest_that_holds(self.lengths, longest)
        return make_batch(mine, pad_id=self._pad_id, length=length, batch_size=len(mine))


def shuffled(items: Iterable[T], size: int, draw: np.random.RandomState) -> Iterator[T]:
    """Every item once; each goes into a buffer of `size`, and a random one of the buffer comes out."""
    held: list[T] = []
    for item in items:
        if len(held) < size:
            held.append(item)
            continue
        i = draw.randint(size)
        yield held[i]
        held[i] = item
    for i in draw.permutation(len(held)):
        yield held[i]


def in_turns(sources: Sequence[Iterator[T]]) -> Iterator[T]:
    """One item of each source after another; a source that has ended is passed over."""
    left = list(sources)
    while left:
        still: list[Iterator[T]] = []
        for source in left:
            for item in source:
                yield item
                still.append(source)
                break
        left = still


def _four_lengths(longest: int) -> tuple[int, ...]:
    """A longest row and its half, quarter and eighth, each rounded up to a multiple of 8."""
    return tuple(sorted({-(-max(longest // part, 1) // 8) * 8 for part in (1, 2, 4, 8)}))
