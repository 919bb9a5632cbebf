"""A chunk of rows to columns of tokens, and what is to be said of them. This is what a worker does.

    rows -> Format.example -> ExampleTokenizer -> Columns
     |            |                  |
     +------------+------------------+--------> FileReport, and the rows that were refused

Rows are read in chunks small enough to hold several of, counted by their text: a chunk of a thousand rows of 50 MB each
would be more than the memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lodos.data.asked import AskedRowsCounter
from lodos.data.examples import TextExample, TokenizedExample
from lodos.data.reading.rows import DroppedTextError, EmptyAnswerError, Row, RowError
from lodos.data.report import FileReport
from lodos.data.text.formats import Format
from lodos.data.tokens.store import Columns
from lodos.data.tokens.tokenize import TOO_LONG, Dropped, ExampleTokenizer
from lodos.prompting.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK_ROWS = 1000
CHUNK_CHARACTERS = 4_000_000
"""A chunk ends with the row that reaches either: about five times the text of a thousand rows of Alpaca."""

MALFORMED = "not as the format wants it"
EMPTY_ANSWER = "the answer is empty"
DROPPED_TEXT = "the chat template leaves out what the row says"


@dataclass(frozen=True)
class PreparedChunk:
    """What became of a chunk."""

    columns: Columns
    """The examples of the rows kept, in order."""
    reports: list[FileReport]
    """One for each file in the chunk, in order."""
    refused: list[tuple[str, str]]
    """(reason, what is wrong with which row) of each row that may not be left out."""


@dataclass(frozen=True)
class ChunkWork:
    """From rows to tokens. Can be pickled."""

    format: Format
    tokenize: ExampleTokenizer
    """Which leaves out what is too long, or cuts it."""
    ends: frozenset[int]
    """Token ids of which one must be trained for the model to learn to stop."""
    refused_reasons: frozenset[str]
    """Reasons for which a row may not be left out."""
    count_asked: AskedRowsCounter
    """Which notes how the model has to be asked afterwards."""
    described: str = ""
    """The format in a line, for the report; by default what it says of itself."""

    def __call__(self, rows: Sequence[Row]) -> PreparedChunk:
        """The rows' tokens and the report on them."""
        reports: dict[str, FileReport] = {}
        refused: list[tuple[str, str]] = []

        def drop(file: str, number: int, reason: str, detail: str) -> None:
            reports[file].drop(reason, number, detail)
            if reason in self.refused_reasons:
                refused.append((reason, f"{file}, row {number}: {detail}"))

        texts: list[TextExample] = []
        described = self.described or self.format.describe()
        for row in rows:
            report = reports.setdefault(row.file, FileReport(row.file, described))
            report.read += 1
            try:
                text, unread = self.format.example(row), self.format.unread(row)
            except RowError as error:
                detail = " ".join(f"{field} {what}" for field, what in error.problems)
                drop(row.file, row.number, _reason(error), detail)
                continue
            texts.append(text)
            for name in unread:
                report.note_unread(name, row.number)

        kept: list[TokenizedExample] = []
        for text, result in zip(texts, self.tokenize(texts), strict=True):
            if isinstance(result, Dropped):
                drop(result.file, result.number, result.reason, result.detail)
                continue
            kept.append(result)
            self._count(reports[text.file], text, result)
        return PreparedChunk(Columns.of(kept), list(reports.values()), refused)

    def _count(self, report: FileReport, text: TextExample, example: TokenizedExample) -> None:
        trained = example.ids[example.trained]
        report.kept += 1
        report.tokens += len(example.ids)
        report.trained_tokens += len(trained)
        report.longest = max(report.longest, len(example.ids))
        # The end is looked for from behind, where it nearly always is.
        if not any(token in self.ends for token in reversed(trained.tolist())):
            report.end_untrained.add(example.number)
        if example.cut:
            report.truncated.add(example.number)
        self.count_asked.add(report.asked, text, example)
        for token in dict.fromkeys(text.text[start:end] for start, end in text.special_tokens):
            report.note_special_token(token, example.number)
        if text.left_out:
            report.note_left_out(example.number, " ".join(text.left_out))


def _reason(error: RowError) -> str:
    if isinstance(error, EmptyAnswerError):
        return EMPTY_ANSWER
    return DROPPED_TEXT if isinstance(error, DroppedTextError) else MALFORMED


def end_ids(tokenizer: "PreTrainedTokenizerBase", format_name: str) -> frozenset[int]:
    """The tokens that end an answer: EOS, and in a chat any special token, since it is the template that ends turns."""
    tokens: list[str] = [str(tokenizer.eos_token)] if tokenizer.eos_token else []
    if format_name == "chat":
        tokens += SpecialTokens(tokenizer).tokens
    ids: Any = tokenizer.convert_tokens_to_ids(tokens)
    return frozenset(ids)


def refused_reasons(on_bad_row: str, overflow: str) -> frozenset[str]:
    """The reasons for which a row may not be left out under these options.

    Rows that have the format and whose answer is empty are left out under all of them, up to `max_dropped`: most data
    sets have a few.
    """
    refuses_bad_rows = on_bad_row == "error"
    reasons = {MALFORMED: refuses_bad_rows, DROPPED_TEXT: refuses_bad_rows, TOO_LONG: overflow == "error"}
    return frozenset(reason for reason, is_refused in reasons.items() if is_refused)


def in_chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """The rows in order, so many at once that their tokens are quickly made and easily held."""
    chunk: list[Row] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += _characters(row.fields)
        if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _characters(value: Any) -> int:
    """About how much text a value holds."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(key) + _characters(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(map(_characters, value))
    return 8
