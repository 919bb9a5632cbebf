"""What is to be said of a run's data, in words and numbers; how it looks is for `data_text` and `data_html`.

Every check has its line, also when it found nothing: whoever reads the report shall see that it was looked for.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from lodos.config import DEFAULT_EPOCHS, TrainArgs
from lodos.data.batching.batches import positions_needed
from lodos.data.batching.loader import TrainLoader
from lodos.data.batching.packing import pack
from lodos.data.histogram import Bar, length_histogram
from lodos.data.limits import ModelLimits
from lodos.data.mixture import Selection
from lodos.data.prepare import Prepared
from lodos.data.preview import ShownRow
from lodos.data.report import FileReport, PreparationReport, RowTally
from lodos.data.tokens.chunks import EMPTY_ANSWER, MALFORMED
from lodos.data.tokens.tokenize import NOTHING_TRAINED, TOO_LONG

SHOWN_FILES = 20
"""Files that are listed one by one."""

ALWAYS_CHECKED = (EMPTY_ANSWER, NOTHING_TRAINED, TOO_LONG, MALFORMED)
"""Reasons for leaving rows out that have their line in any case."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that may be wrong with rows, and those it is wrong with."""

    what: str
    count: int
    rows: tuple[str, ...] = ()
    """Which: `rows.jsonl: 3 (rows 4, 9, 17); <what the first had to say>`, one for each file."""


@dataclasses.dataclass(frozen=True)
class DataSummary:
    """A report on the data of a run."""

    model: str
    part: str | None
    """Which part of the data was looked at, and why; None for all of it."""
    facts: tuple[tuple[str, str], ...]
    """(what, how much)."""
    files: tuple[str, ...]
    """One line each."""
    checks: tuple[Check, ...]
    histogram: tuple[Bar, ...]
    """Lengths in tokens of the training rows."""
    rows: tuple[ShownRow, ...]
    problems: tuple[str, ...]
    """What would train wrongly, or not at all."""


def summarise(
    config: TrainArgs,
    prepared: Prepared,
    loader: TrainLoader,
    limits: ModelLimits,
    *,
    rows: Iterable[ShownRow],
    problems: Iterable[str],
    part: str | None = None,
) -> DataSummary:
    """Everything that is known before training.

    Args:
        loader: of the training examples.
        limits: of the model.
        rows: to be shown token by token.
        part: which part of the data was looked at; None for all.
    """
    report = prepared.report
    return DataSummary(
        model=config.model_name_or_path,
        part=part,
        facts=tuple(_facts(config, prepared, loader, limits, is_all=part is None)),
        files=tuple(_files(report)),
        checks=tuple(_checks(report, special_tokens_as_text=config.special_tokens_as_text)),
        histogram=tuple(length_histogram(prepared.training.lengths)),
        rows=tuple(rows),
        problems=tuple(problems),
    )


def _facts(
    config: TrainArgs, prepared: Prepared, loader: TrainLoader, limits: ModelLimits, *, is_all: bool
) -> Iterable[tuple[str, str]]:
    report, training = prepared.report, prepared.training
    lengths = training.lengths
    yield "rows", f"{report.read:,} read, {report.kept:,} kept, {report.dropped:,} left out"
    share = report.trained_tokens / max(report.tokens, 1)
    yield "tokens", f"{report.tokens:,}, of which {report.trained_tokens:,} are trained ({share:.1%})"
    yield "row lengths", f"{lengths.min():,} to {lengths.max():,} tokens, median {np.median(lengths):,.0f}"
    yield "positions", f"{limits.positions:,} in the model, {lengths.max() - 1:,} of them taken by the longest row"
    yield "held out", f"{len(prepared.held_out):,} rows" if len(prepared.held_out) else "none"
    if is_all:
        yield "epoch", f"{len(training):,} rows{_repeated(training.indices)}"
    if config.packing:
        packed = f"packed into {loader.row_count:,} rows of {config.positions:,} positions"
    else:
        packed = f"padded to {' or '.join(f'{length:,}' for length in loader.lengths)} positions"
    yield "batches", f"{packed}, {loader.efficiency:.1%} of them filled{_if_packed(config, training)}"
    if is_all:
        yield "steps", _steps(config, loader)


def _if_packed(config: TrainArgs, training: Selection) -> str:
    """What packing would change."""
    if config.packing:
        return ""
    needed = positions_needed(training)
    seq_len = max(config.positions, int(needed.max()))
    plan = pack(needed, seq_len, config.trainer.seed)
    return f" (packing: true would fill {plan.efficiency(needed, seq_len):.1%} of {len(plan):,} rows of {seq_len:,})"


def _repeated(indices: np.ndarray) -> str:
    different = len(np.unique(indices))
    return "" if different == len(indices) else f", {different:,} different ones (weights repeat them)"


def _steps(config: TrainArgs, loader: TrainLoader) -> str:
    trainer = config.trainer
    each = f"{loader.batches_per_epoch:,.1f} an epoch, with {loader.batch_size} rows a batch"
    if trainer.num_train_steps is not None:
        epochs = trainer.num_train_steps / loader.batches_per_epoch
        return f"{each}; the run's {trainer.num_train_steps:,} steps are {epochs:,.2f} epochs"
    epochs = trainer.num_epochs or DEFAULT_EPOCHS
    steps = loader.steps_for_epochs(epochs)
    run = "epoch is" if epochs == 1 else f"{epochs:g} epochs are"
    return f"{each}; the run's {run} {steps:,} step{'s' * (steps != 1)}"


def _files(report: PreparationReport) -> Iterable[str]:
    files = [("", file) for file in report.files] + [("held out: ", file) for file in report.held_out_files]
    for role, file in files[:SHOWN_FILES]:
        share = file.trained_tokens / max(file.tokens, 1)
        yield (
            f"{role}{file.file}: {file.kept:,} of {file.read:,} rows kept, {file.tokens:,} tokens ({share:.0%} "
            f"trained), longest row {file.longest:,}. Read as {file.format}"
        )
    if len(files) > SHOWN_FILES:
        yield f"and {len(files) - SHOWN_FILES:,} files more"


def _checks(report: PreparationReport, *, special_tokens_as_text: bool) -> Iterable[Check]:
    files = [*report.files, *report.held_out_files]
    reasons = dict.fromkeys([*ALWAYS_CHECKED, *(reason for file in files for reason in file.dropped)])
    for reason in reasons:
        examples = {file.file: file.dropped[reason].example for file in files if reason in file.dropped}
        yield _check(f"left out: {reason}", ((file, file.dropped.get(reason)) for file in files), examples)
    yield _check("cut to the longest length", ((file, file.truncated) for file in files))
    yield _check("end of the answer not trained", ((file, file.end_untrained) for file in files))
    left_out = {file.file: file.left_out.example for file in files}
    yield _check("text that the chat template leaves out", ((file, file.left_out) for file in files), left_out)
    yield _check("duplicates of earlier rows", ((file, file.duplicates) for file in files))
    yield Check("held-out rows that are also trained", report.held_out_in_training)
    yield _unread(report)
    tokens = list(dict.fromkeys(token for file in files for token in file.special_tokens))
    if not tokens:
        yield Check("special tokens in a row's own text", 0)
    for token in tokens:
        named = f"special token {token} in a row's own text" + ", read as plain characters" * special_tokens_as_text
        yield _check(named, ((file, file.special_tokens.get(token)) for file in files))


def _unread(report: PreparationReport) -> Check:
    files = [*report.files, *report.held_out_files]
    counts = report.unread()
    said = []
    for name, count in counts.items():
        first = next(file for file in files if name in file.unread)
        said.append(
            f"{name}: in {count:,} row{'s' * (count > 1)}, the first {first.file}, row {first.unread[name].first[0]}"
        )
    return Check("columns and keys that nothing reads", len(counts), tuple(said))


def _check(
    what: str, tallies: Iterable[tuple[FileReport, RowTally | None]], examples: Mapping[str, str] | None = None
) -> Check:
    found = [(file.file, tally) for file, tally in tallies if tally is not None and tally.count]
    said = [
        f"{file}: {tally}" + (f"; {examples[file]}" if examples and examples.get(file) else "")
        for file, tally in found[:SHOWN_FILES]
    ]
    if len(found) > SHOWN_FILES:
        said.append(f"and {len(found) - SHOWN_FILES:,} files more")
    return Check(what, sum(tally.count for _, tally in found), tuple(said))
