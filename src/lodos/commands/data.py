"""`lodos data`: what `lodos train` would train on, seen before any weight is loaded.

It takes the config of the training, reads all rows as the training would, and leaves them in the cache for it.
"""

import dataclasses
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from lodos.commands.data_html import page_path, render_page, write_page
from lodos.commands.data_summary import DataSummary, summarise
from lodos.commands.data_text import print_summary
from lodos.commands.loaders import model_limits, training_loader
from lodos.config import TrainArgs
from lodos.config_parsing import parse_config
from lodos.data.examples import TokenizedExample
from lodos.data.first_rows import prepare_first_rows
from lodos.data.mixture import Selection
from lodos.data.prepare import Prepared, check, prepare
from lodos.data.preview import shown_row
from lodos.data.text.chat import read_template
from lodos.data.tokens.source_store import RefusedRowsError
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.hub import model_folder

STREAMED_ROWS = 10_000
"""Rows of each source that are looked at when the data is streamed."""

WIDTH = 120
"""Of lines that go to no terminal."""

DESCRIPTION = """\
Show what lodos train would train on, from the same config, before any weight is loaded: how many rows are kept, and
why others are not; how long they are; how much of them is trained; what is empty, cut, double, or would never teach the
model to stop; how full the batches are and how many steps an epoch takes; and the first rows token by token, with what
is trained in brackets and coloured. Look there first: the answer and its end should be trained, and nothing else. The
report goes to standard output; --html writes it as a page, too; --strict makes what would train wrongly an error,
for scripts. Example: lodos data my.yaml --html data.html"""


@dataclasses.dataclass(kw_only=True)
class DataReportArgs(TrainArgs):
    """The config of a training, and how its data is shown."""

    html: str | None = None
    """Write the report as a page, too: one file that works offline."""
    strict: bool = False
    """Fail when something would train wrongly: no token trained, the end never trained, more than max_dropped left
    out, or rows refused."""
    shown_rows: int = 3
    """Rows of each source that are shown token by token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shown_rows < 0:
            raise UserError(f"shown_rows: {self.shown_rows} must be at least 0.")


def main(argv: list[str]) -> int:
    """Shows the data; under `strict` an error when it would train wrongly."""
    config = parse_config(DataReportArgs, argv, prog="lodos data", description=DESCRIPTION)
    page = None if config.html is None else page_path(config.html)
    summary = summary_of(config)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # rows hold any character, and not every stream takes them
    print_summary(summary, Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False))
    if page is not None:
        write_page(page, render_page(summary))
        print(f"Page: {page}", file=sys.stderr)
    if config.strict and summary.problems:
        raise UserError("\n".join(summary.problems))
    return 0


def summary_of(config: DataReportArgs) -> DataSummary:
    """Prepares the data and looks at it.

    Raises:
        UserError: for what is wrong with the settings, a file or the tokenizer; and when no row is left to look at.
    """
    folder = model_folder(config.model_name_or_path, weights=False)
    # Made as `lodos train` makes it, or that would not find in the cache what is tokenized here.
    converter = HFCheckpointConverter.from_hf(str(folder), chat_template=read_template(config.chat_template))
    with tempfile.TemporaryDirectory(prefix="lodos-data-") as scratch:
        prepared, refusal = _prepared(config, converter, Path(scratch))
        limits = model_limits(converter)
        beyond = limits.problems([prepared.training, prepared.held_out], converter.tokenizer)
        problems = [*refusal, *check(prepared.report, config), *beyond]
        part = None
        if config.streaming:
            part = (
                f"Streamed data is not read to its end before training: this is its beginning, at most "
                f"{STREAMED_ROWS:,} rows of each source. For all rows, add --streaming false, which keeps their tokens "
                "on the disk."
            )
        return summarise(
            config,
            prepared,
            training_loader(config, converter, prepared.training),
            limits,
            rows=[shown_row(example, converter.tokenizer) for example in _first(prepared.training, config.shown_rows)],
            problems=problems,
            part=part,
        )


def _prepared(
    config: DataReportArgs, converter: HFCheckpointConverter, scratch: Path
) -> tuple[Prepared, tuple[str, ...]]:
    """The data, and what the training would refuse of it: the report is on all rows, also where one is refused."""

    def prepared(config: DataReportArgs, folder: str) -> Prepared:
        if config.streaming:
            (scratch / folder).mkdir()
            return prepare_first_rows(config, converter.tokenizer, count=STREAMED_ROWS, folder=scratch / folder)
        return prepare(config, converter.tokenizer, seed=config.trainer.seed, log=False)

    try:
        return prepared(config, "as given"), ()
    except RefusedRowsError as refused:
        overflow = "drop" if config.overflow == "error" else config.overflow
        lenient = dataclasses.replace(config, on_bad_row="drop", overflow=overflow)
        return prepared(lenient, "without what is refused"), (str(refused),)


def _first(examples: Selection, count: int) -> Iterator[TokenizedExample]:
    """The first examples of each of the sources, each once."""
    chosen = np.unique(examples.indices)
    start = 0
    for part in examples.parts:
        of_part = chosen[(chosen >= start) & (chosen < start + len(part))]
        yield from (part[int(place) - start] for place in of_part[:count])
        start += len(part)
