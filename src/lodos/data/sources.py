"""Rows of a JSON or JSONL file, each with the number a person needs to find it again.

A row is decoded on its own, with `json.JSONDecoder.raw_decode` stepping from row to row, also inside one big
JSON array. So whatever is wrong is reported with its file, row and column, and the rows around it are known
to be whole. Hugging Face `datasets` reads many more formats, but it decodes JSON block by block in Arrow: a
broken row is named by its block and a column of mixed types by its type, neither of which leads to the row.

Knows nothing of prompts or tokens.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodos.data.rows import Row
from lodos.errors import UserError

SHOWN_PROBLEMS = 10
"""How many problems an error lists before it says how many more there are."""


@dataclass(frozen=True, slots=True)
class AlpacaRow:
    """A checked row in the Alpaca format. `input` is "" when the row has none."""

    file: str
    number: int
    instruction: str
    input: str
    output: str

    @property
    def where(self) -> str:
        return f"{self.file}, row {self.number}"


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """Reads a local JSON array of objects, or one JSON object a line (JSONL).

    Which of the two it is shows in the first character, so the file may be called anything. A byte order mark
    and blank lines are skipped.

    Raises:
        UserError: for a file that is missing, empty, not UTF-8 or not JSON (with its row and column), and for
            a row that is not an object or names a field twice.
    """
    file = os.fspath(path)
    text = _read_text(file)
    start = _skip_space(text, 0)
    if start == len(text):
        raise UserError(f"{file}: the file is empty. Give a JSON array of objects, or one JSON object a line.")
    rows = _array_rows if text[start] == "[" else _line_rows
    found = [Row(file, number, _as_object(value, file, number)) for number, value in rows(text, start, file)]
    if not found:
        raise UserError(f"{file}: the array has no rows.")
    return found


def alpaca_rows(rows: Sequence[Row]) -> list[AlpacaRow]:
    """Checks the Alpaca fields of every row: `instruction` and `output` are text, `input` is text or absent.

    Raises:
        UserError: listing all that is wrong, row by row; no row is ever left out.
    """
    found = [(row, list(_alpaca_problems(row.fields))) for row in rows]
    bad = sum(bool(problems) for _, problems in found)
    if bad:
        problems = [f"  {row.where}: {problem}" for row, of_row in found for problem in of_row]
        raise UserError(
            "\n".join(
                [
                    f"{bad} of {len(rows)} rows are not in the Alpaca format (instruction, input, output):",
                    *problems[:SHOWN_PROBLEMS],
                    *([f"  and {len(problems) - SHOWN_PROBLEMS} more."] if len(problems) > SHOWN_PROBLEMS else []),
                    "Mend these rows or take them out of the file.",
                ]
            )
        )
    return [
        AlpacaRow(r.file, r.number, r.fields["instruction"], r.fields.get("input") or "", r.fields["output"])
        for r in rows
    ]


def _alpaca_problems(fields: dict[str, Any]) -> Iterator[str]:
    for name in ("instruction", "input", "output"):
        required = name != "input"
        value = fields.get(name)
        if not isinstance(value, str):
            if name not in fields and required:
                yield f"{name} is missing; the row has {', '.join(map(repr, fields)) or 'no fields'}."
            elif required or value is not None:
                yield f"{name} must be text, found {_shown(value)}."
        elif required and not value.strip():
            yield f"{name} is empty, found {_shown(value)}."
        elif not _is_unicode(value):
            # JSON can spell half of a surrogate pair, "\ud83d"; no tokenizer takes it.
            yield f"{name} holds half a surrogate pair, which is no character: {_shown(value)}."


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    text = ascii(value) if not isinstance(value, str) or not _is_unicode(value) else repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if isinstance(value, str) else f"{type(value).__name__} {text}"


def _read_text(file: str) -> str:
    if "://" in file:
        raise UserError(f"{file}: remote data cannot be read yet. Download it and give the local file.")
    path = Path(file).expanduser()
    if path.is_dir():
        raise UserError(f"{file}: this is a folder. Give the JSON or JSONL file inside it.")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{file}: there is no such file (looked in {Path.cwd()}). Give a local JSON or JSONL file; "
            "a data set of the Hugging Face hub has to be downloaded first."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{file}: cannot be read: {error}.") from None
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line, column = _line_and_column(content[: error.start].decode("latin-1"), error.start)
        raise UserError(
            f"{file}, line {line}, byte {column}: not UTF-8 text ({error.reason}). Save the file as uncompressed UTF-8."
        ) from None


def _as_object(value: Any, file: str, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{file}, row {number}: a row must be a JSON object, found {_shown(value)}.")
    return value


def _line_rows(text: str, start: int, file: str) -> Iterator[tuple[int, Any]]:
    # Only "\n" ends a line. `splitlines` would also cut at U+2028 and others, which may stand inside a
    # string.
    for number, line in enumerate(text.split("\n"), start=1):
        start = _skip_space(line, 0)
        if start == len(line):
            continue
        value, end = _decode(line, start, file, number)
        end = _skip_space(line, end)
        if end != len(line):
            raise UserError(
                f"{file}, row {number}, column {end + 1}: text after the end of the row: "
                f"{_shown(line[end:])}. JSONL has one object a line."
            )
        yield number, value


def _array_rows(text: str, start: int, file: str) -> Iterator[tuple[int, Any]]:
    place = _skip_space(text, start + 1)
    number = 0
    while number > 0 or text[place : place + 1] != "]":
        number += 1
        value, place = _decode(text, place, file, number)
        yield number, value
        place = _skip_space(text, place)
        mark = text[place : place + 1]
        if mark == "]":
            break
        if mark != ",":
            found = f"found {mark!r}" if mark else "the file ends here"
            raise _broken(text, place, file, number, f"expected ',' or ']' after the row, {found}")
        place = _skip_space(text, place + 1)
    end = _skip_space(text, place + 1)
    if end != len(text):
        raise _broken(text, end, file, number, "text after the end of the array")


def _decode(text: str, start: int, file: str, number: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise _broken(text, error.pos, file, number, error.msg) from None
    except (ValueError, RecursionError) as error:  # a field twice; a number or a nesting beyond all bounds
        raise UserError(f"{file}, row {number}: {error}.") from None


def _broken(text: str, place: int, file: str, number: int, what: str) -> UserError:
    line, column = _line_and_column(text, place)
    # In an array the row alone does not lead to the spot; in JSONL the row is the line.
    spot = f"column {column}" if "\n" not in text else f"line {line}, column {column}"
    hint = ""
    if number == 1 and place >= len(text) and text.lstrip("\ufeff \t\r").startswith("{"):
        hint = " A row of JSONL must stand on one line; rows over several lines need a JSON array around them."
    return UserError(f"{file}, row {number}, {spot}: not valid JSON: {what}.{hint}")


def _line_and_column(text: str, place: int) -> tuple[int, int]:
    return text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)


def _skip_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return fields


_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(object_pairs_hook=_object)
