"""The first rows of data that is too large to look at whole, prepared as `prepare` would all of it.

What is streamed is never read to its end before training, so a report on it is one on its beginning. The tokens go to a
folder of the caller's, not to the cache, where they could be taken for the whole.
"""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from lodos.data.asked import prompting_of
from lodos.data.config import DataArgs
from lodos.data.mixture import Selection
from lodos.data.prepare import Prepared, also_in, prepare_held_out, with_duplicates
from lodos.data.reading.sources import DataSource, iter_rows, parse_sources
from lodos.data.report import FileReport, PreparationReport, add_reports
from lodos.data.tokens.chunks import in_chunks
from lodos.data.tokens.source_store import RECOGNISED_ROWS, Options, refusing, template_date
from lodos.data.tokens.store import ExampleStore, StoreWriter
from lodos.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare_first_rows(args: DataArgs, tokenizer: "PreTrainedTokenizerBase", *, count: int, folder: Path) -> Prepared:
    """Prepares the first rows of each source; the validation set, which has a source of its own, is read whole.

    Args:
        count: rows of each source.
        folder: where the tokens are put; it must outlive what is returned.

    Raises:
        RefusedRowsError: for rows that must not be left out.
        UserError: for what is wrong with the settings, a file or the tokenizer; and when no row is left.
    """
    options = Options.of(args, tokenizer)
    stores = [
        _store(source, options, tokenizer, count, folder / str(i)) for i, source in enumerate(parse_sources(args.data))
    ]
    report = PreparationReport(with_duplicates(stores))
    if not report.kept:
        raise UserError("\n".join([f"None of the first {report.read} rows can be trained on:", *report.lines()]))
    prompting = prompting_of([file.asked for file in report.files], args, tokenizer, day=template_date(args, tokenizer))
    training = Selection([store for store, _ in stores], prompting=prompting)
    held_out, report.held_out_files = prepare_held_out(args, tokenizer)
    report.held_out_in_training = also_in(held_out, training)
    return Prepared(training, held_out, report)


def _store(
    source: DataSource, options: Options, tokenizer: "PreTrainedTokenizerBase", count: int, folder: Path
) -> tuple[ExampleStore, list[FileReport]]:
    folder.mkdir()
    chunks = in_chunks(itertools.islice(iter_rows(source, stream=True), count))
    first = next(chunks, [])
    work = options.work(first[:RECOGNISED_ROWS], tokenizer)
    reports: dict[str, FileReport] = {}
    with StoreWriter(folder) as writer:
        for chunk in refusing(map(work, itertools.chain([first], chunks))):
            writer.write(chunk.columns)
            add_reports(reports, chunk.reports)
    return ExampleStore(folder), list(reports.values())
