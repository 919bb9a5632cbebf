"""One data set to a store of tokens: from the cache, or made by all cores and put there.

A store goes by the hash of everything its tokens depend on: what the files hold, the tokenizer, the templates, the
options, and the version of what makes them. Templates and prompts are read once, here, so that what is hashed is what
is used.
"""

import contextlib
import copy
import dataclasses
import datetime
import itertools
import json
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodos.data.asked import AskedRowsCounter
from lodos.data.config import DataArgs
from lodos.data.reading.rows import Row
from lodos.data.reading.sources import DataSource, fingerprint, iter_rows
from lodos.data.report import FileReport, add_reports, from_json, to_json
from lodos.data.text.chat import read_template
from lodos.data.text.fields import fields_of, is_conversation, is_fuller_than_text, recognise
from lodos.data.text.formats import make_format
from lodos.data.tokens.cache import cache_key, data_cache_folder, load_or_build
from lodos.data.tokens.chunks import (
    DROPPED_TEXT,
    MALFORMED,
    ChunkWork,
    PreparedChunk,
    end_ids,
    in_chunks,
    refused_reasons,
)
from lodos.data.tokens.store import BrokenStoreError, ExampleStore, StoreWriter
from lodos.data.tokens.tokenize import TOO_LONG, ExampleTokenizer
from lodos.data.tokens.workers import MOST_WORKERS, Workers, core_count
from lodos.errors import UserError
from lodos.prompting.prompts import read_prompts
from lodos.prompting.template_date import asks_for_date

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PREPARATION = 5
"""Raised whenever the same rows and options would give other tokens, or another report, than before."""

REPORT_FILE = "report.json"

RECOGNISED_ROWS = 100
"""The first rows, by which a format is recognised."""

IN_PROCESS_CHUNKS = 8
"""Chunks that are prepared here before other processes are started: for fewer, that would take longer."""

SHOWN_REFUSALS = 10


class RefusedRowsError(UserError):
    """Rows that cannot be trained, and that the options do not let be left out."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What decides the tokens of a row, besides the tokenizer: the options of `DataArgs` with their files read."""

    format: str
    columns: Mapping[str, str] | None
    prompts: Mapping[str, str]
    chat_template: str | None
    chat_template_kwargs: Mapping[str, Any] | None
    template_date: str | None
    on_dropped_text: Any
    mask_inputs: bool
    train_on_turns: Any
    max_length: int
    overflow: Any
    on_bad_row: str
    special_tokens_as_text: bool

    @classmethod
    def of(cls, args: DataArgs, tokenizer: "PreTrainedTokenizerBase") -> "Options":
        """
        Raises:
            UserError: for prompts or a template that cannot be read.
        """
        return cls(
            format=args.format,
            columns=args.columns,
            prompts=dataclasses.asdict(read_prompts(args.prompts)),
            chat_template=read_template(args.chat_template),
            chat_template_kwargs=args.chat_template_kwargs,
            template_date=template_date(args, tokenizer),
            on_dropped_text=args.on_dropped_text,
            mask_inputs=args.mask_inputs,
            train_on_turns=args.train_on_turns,
            max_length=args.longest_row,
            overflow=args.overflow,
            on_bad_row=args.on_bad_row,
            special_tokens_as_text=args.special_tokens_as_text,
        )

    def work(self, first_rows: list[Row], tokenizer: "PreTrainedTokenizerBase") -> ChunkWork:
        """What is done to each chunk.

        Args:
            first_rows: which tell the format, unless it is given.

        Raises:
            UserError: for a format that does not show, or options or a tokenizer that do not go with it.
        """
        columns = self.columns or {}
        name = recognise(first_rows, columns) if self.format == "auto" else self.format
        if name == "prompt_completion" and any(is_conversation(row, columns) for row in first_rows):
            name = "chat"  # TRL calls both so
        row_format = make_format(
            name,
            tokenizer=tokenizer,
            prompts=self.prompts,
            columns=columns,
            chat_template=self.chat_template,
            chat_template_kwargs=self.chat_template_kwargs,
            template_date=self.template_date,
            on_dropped_text=self.on_dropped_text,
            mask_inputs=self.mask_inputs,
            train_on_turns=self.train_on_turns,
        )
        described = row_format.describe(set().union(*(fields_of(row, columns) for row in first_rows)))
        if self.format == "auto" and is_fuller_than_text(name, first_rows, columns):
            described += "; the column of text is taken for the same, rendered"
        return ChunkWork(
            format=row_format,
            described=described,
            tokenize=ExampleTokenizer(
                tokenizer,
                max_length=self.max_length,
                # What is refused is collected over the chunks, so that the error can name rows of several.
                overflow="drop" if self.overflow == "error" else self.overflow,
                special_tokens_as_text=self.special_tokens_as_text,
            ),
            ends=end_ids(tokenizer, name),
            refused_reasons=refused_reasons(self.on_bad_row, self.overflow),
            count_asked=AskedRowsCounter.of(name, tokenizer),
        )


def source_store(
    source: DataSource,
    args: DataArgs,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[ExampleStore, list[FileReport]]:
    """The tokens of a data set, and what became of the rows of each of its files.

    Args:
        progress: called with how many more rows are done.

    Raises:
        RefusedRowsError: for rows that must not be left out, naming the first of them.
        UserError: for whatever is wrong with the files, the options or the tokenizer.
    """
    options = Options.of(args, tokenizer)
    content = fingerprint(source)
    key = cache_key(
        {
            "preparation": PREPARATION,
            "source": dataclasses.asdict(dataclasses.replace(source, weight=1.0)),  # rows are named by its path
            "content": content,
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "options": dataclasses.asdict(options),
        }
    )

    def build(folder: Path) -> None:
        reports: dict[str, FileReport] = {}
        with StoreWriter(folder) as writer, contextlib.closing(prepared_chunks(source, options, tokenizer)) as chunks:
            for chunk in refusing(chunks):
                writer.write(chunk.columns)
                add_reports(reports, chunk.reports)
                progress(sum(report.read for report in chunk.reports))
        if fingerprint(source) != content:
            raise UserError(f"{source.path}: the data changed while it was read. Start again when it is complete.")
        _check_counts(reports.values())
        (folder / REPORT_FILE).write_text(json.dumps(to_json(reports.values())), encoding="utf-8")

    return load_or_build(data_cache_folder(args.data_cache_dir) / key, _load, build, broken=BrokenStoreError)


def prepared_chunks(
    source: DataSource, options: Options, tokenizer: "PreTrainedTokenizerBase"
) -> Generator[PreparedChunk]:
    """The chunks of a data set in order, made by as many processes as it is worth."""
    chunks = in_chunks(iter_rows(source))
    first = next(chunks, [])
    work = options.work(first[:RECOGNISED_ROWS], tokenizer)
    chunks = itertools.chain([first], chunks)
    yield from map(work, itertools.islice(chunks, IN_PROCESS_CHUNKS))
    more = next(chunks, None)
    if more is None:
        return
    chunks = itertools.chain([more], chunks)
    workers = min(core_count(), MOST_WORKERS)
    if workers == 1:
        yield from map(work, chunks)
        return
    with Workers(work, workers) as pool:
        yield from pool.map(chunks)


def refusing(chunks: Iterator[PreparedChunk], *, at_most: int = SHOWN_REFUSALS) -> Iterator[PreparedChunk]:
    """The chunks as they are, with an error for rows that must not be left out.

    Raises:
        RefusedRowsError: at the end, or as soon as there are `at_most` such rows.
    """
    refused: list[tuple[str, str]] = []
    read = 0
    for chunk in chunks:
        yield chunk
        read += sum(report.read for report in chunk.reports)
        refused += chunk.refused
        if len(refused) >= at_most:
            break
    if refused:
        raise RefusedRowsError("\n".join(_refusal(refused, read, is_all=next(chunks, None) is None)))


def _refusal(refused: list[tuple[str, str]], read: int, *, is_all: bool) -> Iterator[str]:
    yield f"{len(refused)} of {'' if is_all else 'the first '}{read} rows cannot be trained:"
    yield from (f"  {problem}" for _, problem in refused[:SHOWN_REFUSALS])
    if len(refused) > SHOWN_REFUSALS:
        yield f"  and {len(refused) - SHOWN_REFUSALS} more."
    reasons = {reason for reason, _ in refused}
    if MALFORMED in reasons:
        yield "Mend these rows, or set on_bad_row to drop, which leaves them out and counts them."
    if DROPPED_TEXT in reasons:
        yield (
            "Give a chat_template that writes what these rows say, take it out of them, or set on_dropped_text to warn "
            "to train without it; on_bad_row: drop leaves the rows out."
        )
    if TOO_LONG in reasons:
        yield "Raise max_tune_length, or set overflow to drop or truncate."


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of all that decides what the tokenizer makes of a text, and of the versions of the code that does it.

    Raises:
        UserError: for a slow tokenizer.
    """
    import importlib.metadata

    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which cannot say which characters a token covers. "
            "Use one with a tokenizer.json."
        )
    backend: Any = getattr(tokenizer, "backend_tokenizer")  # noqa: B009 (only fast tokenizers have it)
    if backend.truncation or backend.padding:  # left by whoever used it last; no part of what we ask of it
        backend = copy.deepcopy(backend)
        backend.no_truncation()
        backend.no_padding()
    return cache_key(
        {
            "class": type(tokenizer).__qualname__,
            "backend": backend.to_str(),
            "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
            "chat_template": tokenizer.chat_template,
            "versions": {name: importlib.metadata.version(name) for name in ("tokenizers", "transformers", "jinja2")},
        }
    )


def template_date(args: DataArgs, tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The day that the chat template writes as today's, as YYYY-MM-DD; None where it writes none.

    Raises:
        UserError: for a template that cannot be read.
    """
    template = read_template(args.chat_template) or str(tokenizer.chat_template)
    if not asks_for_date(template):
        return None
    return args.template_date or datetime.date.today().isoformat()


def _load(folder: Path) -> tuple[ExampleStore, list[FileReport]]:
    store = ExampleStore(folder)
    try:
        return store, from_json(json.loads((folder / REPORT_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BrokenStoreError(f"{folder}: {REPORT_FILE} cannot be read: {error}") from None


def _check_counts(reports: Iterable[FileReport]) -> None:
    for report in reports:
        if report.read != report.kept + report.dropped_count:
            dropped = {reason: rows.count for reason, rows in report.dropped.items()}
            raise AssertionError(f"{report.file}: {report.read} rows read, {report.kept} kept, dropped {dropped}")
