"""Rows of a JSON array of objects, or of JSON Lines, each with the number a person needs to find it again.

A row is decoded on its own, with `json.JSONDecoder.raw_decode` stepping from row to row, also inside one big array,
over a window of text that moves through the file. So whatever is wrong is reported with its row and column, the rows
before it are known to be whole, and memory is that of the longest row. Hugging Face `datasets` decodes JSON block by
block in Arrow: it names the block of a broken row, and a row that lacks a field gets it as null.

Knows nothing of files and of what the fields mean.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from lodos.data.reading.open_file import CHUNK, MAX_ROW_BYTES
from lodos.data.reading.rows import Row, shown
from lodos.errors import UserError


def json_rows(stream: io.BufferedReader, file: str, *, max_row: int = MAX_ROW_BYTES) -> Iterator[Row]:
    """Reads a JSON array of objects, or one JSON object a line (JSONL).

    Which of the two it is shows in the first character. A byte order mark and blank lines are skipped; the number of a
    row is its place in the array, or its line.

    Args:
        stream: UTF-8.
        file: what the rows and errors call it.
        max_row: most characters of a row.

    Raises:
        UserError: for a file that is empty, not UTF-8 or not JSON (with its row and column), and for a row that is not
            an object, names a field twice or is too long.
    """
    text = _Window(stream, file, max_row)
    text.skip_space()
    if text.at_end():
        raise UserError(f"{file}: the file is empty. Give a JSON array of objects, or one JSON object a line.")
    for value in _array_values(text) if text.mark() == "[" else _line_values(text):
        if not isinstance(value, dict):
            raise UserError(f"{file}, row {text.row}: a row must be a JSON object, found {shown(value)}.")
        yield Row(file, text.row, value)
    if not text.row:
        raise UserError(f"{file}: the array has no rows.")


def _line_values(text: "_Window") -> Iterator[Any]:
    text.row_is_line = True
    text.row, _ = text.spot(text.place)
    while not text.at_end():
        line = text.line()
        start = _after_space(line, 0)
        if start < len(line):
            try:
                value, end = text.decode(line, start)
            except json.JSONDecodeError as error:
                raise text.broken(text.place + error.pos, error.msg + _hint(line, error.pos, text.row)) from None
            end = _after_space(line, end)
            if end < len(line):
                raise text.broken(
                    text.place + end, f"text after the end of the row: {shown(line[end:])}; JSONL has one object a line"
                )
            yield value
        text.place += len(line) + 1
        text.row += 1


def _hint(line: str, place: int, number: int) -> str:
    if number == 1 and place >= len(line.rstrip()) and line.lstrip().startswith("{"):
        return ". A row of JSONL must stand on one line; rows over several lines need a JSON array around them"
    return ""


def _array_values(text: "_Window") -> Iterator[Any]:
    text.place += 1
    text.skip_space()
    mark = "" if text.mark() == "]" else ","
    while mark == ",":
        text.row += 1
        yield text.next_value()
        text.skip_space()
        mark = text.mark()
        if mark not in (",", "]"):
            found = f"found {mark!r}" if mark else "the file ends here"
            raise text.broken(text.place, f"expected ',' or ']' after the row, {found}")
        text.place += 1
        text.skip_space()
    if text.row and not text.at_end():
        raise text.broken(text.place, "text after the end of the array")


class _Window:
    """A piece of the file as text, and how far it has been read. Reading on lets go of what lies before `place`."""

    def __init__(self, stream: io.BufferedReader, file: str, max_row: int):
        self.row = 0
        """The row at `place`, which errors name."""
        self.row_is_line = False
        self.place = 0
        self._text = ""
        self._file = file
        self._stream = stream
        self._max_row = max_row
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._not_utf8: tuple[int, int, str] | None = None  # line, column and what is wrong where the text ends
        # The line in which the text begins, and how much of it lies before.
        self._line, self._before = 1, 0
        self._read_on()
        self._text = self._text.removeprefix("\ufeff")

    def at_end(self) -> bool:
        while self.place >= len(self._text):
            if not self._read_on():
                return True
        return False

    def mark(self) -> str:
        """The character at `place`; "" at the end of the file."""
        return "" if self.at_end() else self._text[self.place]

    def skip_space(self) -> None:
        self.place = _after_space(self._text, self.place)
        while self.place == len(self._text) and self._read_on():
            self.place = _after_space(self._text, self.place)

    def line(self) -> str:
        """The text from `place` to the end of its line.

        Only a newline ends a line: `splitlines` would also cut at U+2028 and others, which may stand inside a string.
        """
        end = self._text.find("\n", self.place)
        while end < 0:
            searched = len(self._text) - self.place
            if not self._read_on():
                return self._text[self.place :]
            end = self._text.find("\n", searched)
        return self._text[self.place : end]

    def next_value(self) -> Any:
        """Decodes the value at `place` and steps behind it, reading on where the window cuts it."""
        while True:
            try:
                value, end = self.decode(self._text, self.place)
            except json.JSONDecodeError as error:
                # A string is unterminated from its start on; all else is cut within a few characters of the end.
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _LONGEST_MARK
                if not (cut and self._read_on()):
                    raise self.broken(error.pos, error.msg) from None
            else:
                if end < len(self._text) or not self._read_on():  # a number may go on behind the window
                    self.place = end
                    return value

    def decode(self, text: str, start: int) -> tuple[Any, int]:
        """The value at `start` of `text`, and where it ends.

        Raises:
            JSONDecodeError: when it is not JSON, as it stands.
            UserError: when more of the file cannot mend it.
        """
        try:
            return _DECODER.raw_decode(text, start)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:  # a field twice; a number or a nesting beyond all bounds
            raise UserError(f"{self._file}, row {self.row}: {error}.") from None

    def broken(self, place: int, what: str) -> UserError:
        return UserError(f"{self._where(*self.spot(place))}: not valid JSON: {what}.")

    def spot(self, place: int) -> tuple[int, int]:
        """Line and column in the file, from 1, of a place in the window."""
        newline = self._text.rfind("\n", 0, place)
        before = self._before if newline < 0 else 0
        return self._line + self._text.count("\n", 0, place), before + place - newline

    def _where(self, line: int, column: int) -> str:
        # In an array the row alone does not lead to the spot; in JSONL the row is the line.
        spot = f"line {line}, column {column}"
        if self.row:
            spot = f"row {self.row}, column {column}" if self.row_is_line else f"row {self.row}, {spot}"
        return f"{self._file}, {spot}"

    def _read_on(self) -> bool:
        """Reads at least as much again as is there, so that a long row is not decoded over and over.

        Returns:
            False at the end of the file, with the window as it was.
        """
        if self._not_utf8 is not None:  # the rows before the bad byte are read, so it lies in this one
            line, column, what = self._not_utf8
            raise UserError(f"{self._where(line, column)}: {what}. Save the file as UTF-8.")
        length = len(self._text) - self.place
        if length > self._max_row:
            raise UserError(
                f"{self._file}, row {self.row}: longer than {self._max_row:,} characters. Either a quotation mark or a "
                "bracket is not closed, or this is no text to train on."
            )
        data = self._stream.read1(min(max(CHUNK, length), self._max_row + 1 - length))
        try:
            new = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            self._slide(error.object[: error.start].decode("utf-8"))
            byte = error.object[error.start]
            self._not_utf8 = *self.spot(len(self._text)), f"byte 0x{byte:02x} is not UTF-8 text ({error.reason})"
            return True
        if data:
            self._slide(new)
        return bool(data)

    def _slide(self, new: str) -> None:
        line, column = self.spot(self.place)
        self._text = self._text[self.place :] + new
        self._line, self._before, self.place = line, column - 1, 0


def _after_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return fields


_SPACE = re.compile(r"[ \t\r\n]*")
_LONGEST_MARK = 16  # "-Infinity", "\\ud83d\\ude00" and a bit
_DECODER = json.JSONDecoder(object_pairs_hook=_object)
