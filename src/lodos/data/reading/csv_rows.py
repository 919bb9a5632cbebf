"""Records of a CSV file as rows of text, each with its number.

Python's own strict `csv` reads it. Hugging Face `datasets` goes through pandas, which guesses types: there "NA", "null"
and "None" become null and "007" becomes 7.0. A CSV file has no types, so here every value is the text that is written,
and a record with more or fewer values than the header has columns is an error.

Knows nothing of files and of what the columns mean.
"""

import csv
import io
from collections.abc import Iterator

from lodos.data.reading.open_file import MAX_ROW_BYTES
from lodos.data.reading.rows import Row, shown
from lodos.errors import UserError


def csv_rows(
    stream: io.BufferedReader, file: str, *, delimiter: str = ",", max_row: int = MAX_ROW_BYTES
) -> Iterator[Row]:
    """Reads CSV with a header (RFC 4180), whose values may hold newlines inside quotation marks.

    Row 1 is the record after the header. A byte order mark and blank lines are skipped. Errors name the line as well,
    since values with newlines make it run ahead of the row.

    Args:
        stream: UTF-8.
        file: what the rows and errors call it.
        max_row: most bytes of a record.

    Raises:
        UserError: for a file that is empty, not UTF-8 or not CSV, a column named twice, a row of another length than
            the header or longer than `max_row`, and a file without rows.
    """
    # The limit is of the whole process; its default of 131,072 characters is less than many a document has.
    csv.field_size_limit(max(csv.field_size_limit(), max_row))
    lines = _Lines(stream, file, max_row)
    records = csv.reader(lines, delimiter=delimiter, strict=True)
    columns = _next_record(records, lines)
    if columns is None:
        raise UserError(f"{file}: the file is empty. Give a header with the names of the columns, then the rows.")
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise UserError(f"{file}, line {lines.first}: columns named twice: {', '.join(map(repr, twice))}.")
    lines.row = 1
    while (values := _next_record(records, lines)) is not None:
        if len(values) != len(columns):
            raise UserError(
                f"{lines.where}: {len(values)} values for the {len(columns)} columns {', '.join(columns)}: "
                f"{shown(values)}. Put a value with a comma or a newline in quotation marks."
            )
        yield Row(file, lines.row, dict(zip(columns, values, strict=True)))
        lines.row += 1
    if lines.row == 1:
        raise UserError(f"{file}: the file has a header and no rows.")


def _next_record(records: Iterator[list[str]], lines: "_Lines") -> list[str] | None:
    try:
        while True:
            lines.start_record()
            if values := next(records):  # a blank line is an empty list
                return values
    except StopIteration:
        return None
    except csv.Error as error:
        hints = {
            "unexpected end of data": " A quotation mark is not closed.",
            "new-line character seen": r" Lines must end in \n or \r\n, not in \r alone.",
            "expected after": ' A quotation mark inside quotation marks is doubled: "".',
        }
        hint = next((hint for part, hint in hints.items() if part in str(error)), "")
        raise UserError(f"{lines.where}: not valid CSV: {error}.{hint}") from None


class _Lines:
    """Lines of text for `csv.reader`, counted, so that an error knows its row and line."""

    def __init__(self, stream: io.BufferedReader, file: str, max_row: int):
        self.row = 0
        """The row being read; 0 is the header."""
        self.first = 1
        """The line in which its record begins."""
        self._line = 0
        self._size = 0
        self._stream = stream
        self._file = file
        self._max_row = max_row

    def start_record(self) -> None:
        self.first, self._size = self._line + 1, 0

    @property
    def where(self) -> str:
        return f"{self._file}, " + (f"row {self.row} (line {self.first})" if self.row else f"line {self.first}")

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        data = self._stream.readline(self._max_row + 1 - self._size)
        if not data:
            raise StopIteration
        self._line += 1
        self._size += len(data)
        if self._size > self._max_row:
            raise UserError(
                f"{self.where}: longer than {self._max_row:,} bytes. Either a quotation mark is not closed, or this is "
                "no text to train on."
            )
        if b"\0" in data:
            raise UserError(f"{self.where}: a NUL byte in line {self._line}. Save the file as UTF-8, not UTF-16.")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.where}: byte {error.start + 1} of line {self._line}, 0x{data[error.start]:02x}, is not UTF-8 "
                f"text ({error.reason}). Save the file as UTF-8."
            ) from None
        return text.removeprefix("\ufeff") if self._line == 1 else text
