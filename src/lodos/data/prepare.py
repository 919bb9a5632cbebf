"""From the settings of the data to the examples that are trained on and those that are held out, in order of events.

    data  ->  a store for each source  ->  held-out examples taken out  ->  the rest mixed by weight

Everything is chosen by index: tokens stay where they are on the disk.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from lodos.data.asked import prompting_of
from lodos.data.config import SPLIT_PREFIX, DataArgs
from lodos.data.mixture import Selection, mix
from lodos.data.reading.sources import DataSource, parse_sources
from lodos.data.report import FileReport, PreparationReport
from lodos.data.split import split
from lodos.data.tokens.source_store import source_store, template_date
from lodos.data.tokens.store import ExampleStore
from lodos.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_RATE_NEEDS = 60
"""Columns of a terminal from which there is room for the rate beside the rows and the time."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a run trains on and is judged by."""

    training: Selection
    """The examples of an epoch, before they are shuffled. One of a set of greater weight occurs several times."""
    held_out: Selection
    """None of them is in `training`. Empty when nothing is held out."""
    report: PreparationReport


def prepare(
    args: DataArgs, tokenizer: "PreTrainedTokenizerBase", *, seed: int, progress: bool = True, log: bool = True
) -> Prepared:
    """Tokenizes the data, or finds it in the cache, and says in the log and the report what became of each row.

    Args:
        seed: decides which examples are held out, and which occur once more when weights are no whole multiples.
        progress: shows a bar on a terminal.
        log: turned off by who shows the report.

    Raises:
        RefusedRowsError: for rows that must not be left out.
        UserError: for what is wrong with the settings, a file or the tokenizer; and when no example is left to train
            on, or none to hold out of a source given for that.
    """
    sources = parse_sources(args.data)
    trained = _stores(sources, args, tokenizer, progress=progress)
    report = PreparationReport(with_duplicates(trained))
    _refuse_empty(report.files, "train on")
    held_out, report.held_out_files = prepare_held_out(args, tokenizer, progress=progress)
    training_parts = [store for store, _ in trained]
    weights = [source.weight for source in sources]
    if isinstance(args.validation, int | float):
        training, held_out = _split(training_parts, weights, args.validation, seed)
    else:
        training = Selection(training_parts, mix([len(store) for store in training_parts], weights, seed))
    training.prompting = prompting_of(
        [file.asked for file in report.files], args, tokenizer, day=template_date(args, tokenizer)
    )
    report.held_out_in_training = also_in(held_out, training)
    if log:
        _log(report)
    return Prepared(training, held_out, report)


def prepare_held_out(
    args: DataArgs, tokenizer: "PreTrainedTokenizerBase", *, progress: bool = True
) -> tuple[Selection, list[FileReport]]:
    """The examples of a validation set that has a source or a split of its own; none where it has not.

    Raises:
        UserError: as `prepare`.
    """
    sources = _validation_sources(args)
    if not sources:
        return Selection([]), []
    stores = _stores(sources, args, tokenizer, progress=progress)
    reports = with_duplicates(stores)
    _refuse_empty(reports, "hold out")
    return Selection([store for store, _ in stores]), reports


def check(report: PreparationReport, args: DataArgs) -> list[str]:
    """What would train wrongly, in words; empty when nothing would."""
    problems = []
    if not report.trained_tokens:
        problems.append(f"No token of the {report.read} rows is trained.")
    elif all(file.end_untrained.count == file.kept for file in report.files):
        problems.append(
            f"The end of the answer is trained in none of the {report.kept} rows, so the model would never learn to "
            "stop. Raise max_tune_length if the rows are cut; else look at the end of the turns in the chat template."
        )
    if report.dropped > args.max_dropped * report.read:
        reasons: dict[str, int] = {}
        for file in report.files:
            for reason, rows in file.dropped.items():
                reasons[reason] = reasons.get(reason, 0) + rows.count
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        problems.append(
            f"{report.dropped} of {report.read} rows were left out ({counts}), a share above "
            f"max_dropped={args.max_dropped}. Mend the rows, raise max_tune_length, or raise max_dropped."
        )
    return problems


def _stores(
    sources: Sequence[DataSource], args: DataArgs, tokenizer: "PreTrainedTokenizerBase", *, progress: bool
) -> list[tuple[ExampleStore, list[FileReport]]]:
    with _progress_bar(enabled=progress) as advance:
        return [source_store(source, args, tokenizer, progress=advance) for source in sources]


def _validation_sources(args: DataArgs) -> tuple[DataSource, ...]:
    validation = args.validation
    if validation is None or isinstance(validation, int | float):
        return ()
    if isinstance(validation, str) and validation.startswith(SPLIT_PREFIX):
        name = validation.removeprefix(SPLIT_PREFIX)
        if not name:
            raise UserError(f"validation: {validation!r} names no split. Write {SPLIT_PREFIX}validation, for example.")
        sources = parse_sources(args.data)
        if any(source.split == name for source in sources):
            raise UserError(f"validation: {validation!r} is the split that is trained on. Name another.")
        return tuple(dataclasses.replace(source, split=name, weight=1.0) for source in sources)
    return parse_sources(validation, name="validation")


def _split(
    parts: Sequence[ExampleStore], weights: Sequence[float], held_out: int | float, seed: int
) -> tuple[Selection, Selection]:
    """The held-out examples are drawn from all examples alike, before weights repeat any."""
    ends = np.cumsum([len(store) for store in parts])
    kept, held = (np.array(places, np.int64) for places in split(range(int(ends[-1])), held_out, seed))
    counts = np.diff(np.searchsorted(kept, ends), prepend=0)
    return Selection(parts, kept[mix(counts.tolist(), weights, seed)]), Selection(parts, held)


def with_duplicates(stores: Sequence[tuple[ExampleStore, list[FileReport]]]) -> list[FileReport]:
    """The files of all sources, with those rows counted that train the same as one before."""
    digests = np.concatenate([np.empty(0, np.uint64), *(store.digests for store, _ in stores)])
    is_repeated = np.ones(len(digests), np.bool_)
    is_repeated[np.unique(digests, return_index=True)[1]] = False  # the first of each
    start = 0
    for store, reports in stores:
        by_file = {report.file: report for report in reports}
        for i in np.flatnonzero(is_repeated[start : start + len(store)]):
            by_file[store.files[store.file_indices[i]]].duplicates.add(int(store.numbers[i]))
        start += len(store)
    return [report for _, reports in stores for report in reports]


def also_in(examples: Selection, others: Selection) -> int:
    """How many of the examples train the same as one of the others."""
    return int(np.isin(digests(examples), digests(others)).sum())


def digests(examples: Selection) -> np.ndarray:
    """uint64 [selected]: equal for examples that train the same."""
    parts = [part.digests for part in examples.parts if isinstance(part, ExampleStore)]
    return np.concatenate([np.empty(0, np.uint64), *parts])[examples.indices]


def _refuse_empty(files: Sequence[FileReport], purpose: str) -> None:
    if not any(file.kept for file in files):
        lines = [f"There are no rows to {purpose}:", *(line for file in files for line in file.lines())]
        raise UserError("\n".join(lines))


def _log(report: PreparationReport) -> None:
    for file in (*report.files, *report.held_out_files):
        first, *remarks = file.lines()
        logger.info("%s", first)
        for remark in remarks:
            logger.warning("%s: %s", file.file, remark.strip())
    if unread := report.unread_line():
        logger.info("%s", unread)
    if report.held_out_in_training:
        logger.warning("%d held-out examples are also trained on.", report.held_out_in_training)


@contextmanager
def _progress_bar(*, enabled: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function that counts rows. Silent when not enabled or not on a terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("Tokenizing"),
        TextColumn("{task.completed:,.0f} rows"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not (enabled and console.is_interactive)) as bar:
        task = bar.add_task("", total=None, rate="")

        def advance(rows: int) -> None:
            speed = bar.tasks[0].speed
            shown = speed and console.width >= _RATE_NEEDS
            bar.update(task, advance=rows, rate=f"{speed:,.0f} rows/s" if shown else "")

        yield advance
