"""The fields of the formats, the columns that hold them, and which format a file has.

A column has one meaning. `columns: {instruction: question}` says that the instruction stands in the column `question`;
a field that it does not mention stands in the column of its own name, unless `columns` has given that column to another
field: with `{instruction: output, output: input}` there is no input.

Knows nothing of what becomes of a row.
"""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lodos.data.reading.rows import Row, shown
from lodos.data.text.column_hints import are_columns, column_hints
from lodos.errors import UserError

Columns = Mapping[str, str]
"""Our field names to the file's."""


@dataclass(frozen=True)
class Fields:
    """The names of a format's fields."""

    required: tuple[str, ...]
    """Each may be several names, of which a row has one: `messages|conversations`."""
    optional: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*(name for one_of in self.required for name in one_of.split("|")), *self.optional)

    def missing(self, has: Collection[str]) -> list[str]:
        """The required ones that are not among `has`."""
        return [one_of for one_of in self.required if not set(has).intersection(one_of.split("|"))]


BESIDE_MESSAGES = ("system", "tools", "functions", "chat_template_kwargs")
"""The fields that say something of a conversation beside its messages."""

FORMATS: Mapping[str, Fields] = {
    "alpaca": Fields(("instruction", "output"), ("input", "system", "history")),
    "prompt_completion": Fields(("prompt", "completion")),
    "chat": Fields(
        ("messages|conversations",),
        ("prompt", "completion", *BESIDE_MESSAGES),
    ),
    "text": Fields(("text",)),
}
"""The formats by name."""

PREFERENCES = ("chosen", "rejected")
"""The columns of preference data: an answer that is liked better than another."""


def column_of(field: str, columns: Columns) -> str | None:
    """The column of a field; None when `columns` gives the one of its name to another field."""
    if field in columns:
        return columns[field]
    return None if field in columns.values() else field


def value_of(row: Row, field: str, columns: Columns) -> Any:
    """What a row has as this field; None when it has none."""
    column = column_of(field, columns)
    return None if column is None else row.fields.get(column)


def columns_read(format_name: str, columns: Columns) -> set[str]:
    """The columns that a format reads, if they are there."""
    return columns_of(FORMATS[format_name].names, columns)


def columns_of(fields: Iterable[str], columns: Columns) -> set[str]:
    """The columns of these fields."""
    return {name for field in fields if (name := column_of(field, columns)) is not None}


def unread_columns(row: Row, reads: Collection[str]) -> list[str]:
    """The columns of a row that hold something and are not among those read."""
    return [name for name, value in row.fields.items() if name not in reads and value not in (None, "", [], {})]


def check_columns(columns: Columns, format_name: str | None = None) -> None:
    """
    Raises:
        UserError: for a field of no format (or not of this one), a column that is no text, and one given to two fields;
            all that is wrong at once.
    """
    known = list(dict.fromkeys(_all_names()))
    problems = [
        f"columns: {name!r} is no field of any format; there are {', '.join(known)}{nearest(name, known)}."
        for name in columns
        if name not in known
    ]
    problems += [
        f"columns: {name} must be the name of a column, found {shown(theirs)}."
        for name, theirs in columns.items()
        if not isinstance(theirs, str)
    ]
    if not problems:
        for theirs in dict.fromkeys(columns.values()):
            twice = [ours for ours in columns if columns[ours] == theirs]
            if len(twice) > 1:
                problems.append(f"columns: {' and '.join(twice)} are both {theirs!r}. A column holds one field.")
    if format_name is not None and not problems:
        strangers = [ours for ours in columns if ours not in FORMATS[format_name].names]
        if strangers:
            problems.append(
                f"columns: {', '.join(strangers)} {'is' if len(strangers) == 1 else 'are'} no field of {format_name}, "
                f"which has {', '.join(FORMATS[format_name].names)}."
            )
    if problems:
        raise UserError("\n".join(problems))


def fields_of(row: Row, columns: Columns) -> set[str]:
    """The fields of any format that a row has. A null is none, since tables have every column in every row."""
    return {name for name in _all_names() if value_of(row, name, columns) is not None}


def is_conversation(row: Row, columns: Columns) -> bool:
    """Whether prompt and completion are lists of messages, as TRL has them, rather than texts."""
    return any(isinstance(value_of(row, name, columns), list) for name in ("prompt", "completion"))


def fits(name: str, row: Row, columns: Columns) -> bool:
    """Whether a row has all that this format needs."""
    has = fields_of(row, columns)
    has_pair = {"prompt", "completion"} <= has
    if name == "prompt_completion":
        return has_pair and not is_conversation(row, columns)
    return not FORMATS[name].missing(has) or (name == "chat" and has_pair and is_conversation(row, columns))


def recognise(rows: Sequence[Row], columns: Columns | None = None) -> str:
    """The name of the one format that fits the first rows of a file.

    A format fits when some row has all its required fields, so that a broken row among the first is reported as such
    later. With `columns`, only formats that have all the fields it names can fit. `text` beside the fields of another
    format is those fields once more, rendered, so the other format wins, unless some rows have the text alone.

    Raises:
        UserError: when two formats fit or none does, with the columns and the candidates; or for `columns` that name a
            field of no format or a column of no row.
    """
    columns = columns or {}
    check_columns(columns)
    if not rows:
        raise UserError("There are no rows to recognise a format from.")
    file = rows[0].file
    present = list(dict.fromkeys(name for row in rows for name in row.fields))
    lost = [f"{ours}: {theirs}" for ours, theirs in columns.items() if theirs not in present]
    if lost:
        raise UserError(
            f"{file}: columns: no row has {', '.join(repr(entry.split(': ', 1)[1]) for entry in lost)} "
            f"(of {', '.join(lost)}); the columns are {listed(present)}."
        )
    if are_columns(rows):
        raise UserError(
            f"{file}: a table by columns ({listed(present)}), not by rows. Write an object for each row, as "
            "df.to_json(file, orient='records', lines=True) of pandas does."
        )
    fitting = _fitting(rows, columns)
    others = [name for name in fitting if name != "text"]
    if len(others) == 1 and not any(_is_text_alone(row, others[0], columns) for row in rows):
        return others[0]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(
            f"{file}: the format is not clear: the columns {listed(present)} fit {' and '.join(fitting)}. "
            "Set format to one of them, or give each format's rows as a file of their own: data: [a.jsonl, b.jsonl]."
        )
    raise _no_format(f"{file}: no format fits the columns {listed(present)}:", columns, rows, present)


def is_fuller_than_text(name: str, rows: Sequence[Row], columns: Columns) -> bool:
    """Whether rows of this format have a text as well, which is passed over for it."""
    return name != "text" and "text" in _fitting(rows, columns)


def _fitting(rows: Sequence[Row], columns: Columns) -> list[str]:
    return [
        name
        for name, fields in FORMATS.items()
        if set(columns) <= set(fields.names) and any(fits(name, row, columns) for row in rows)
    ]


def _is_text_alone(row: Row, other: str, columns: Columns) -> bool:
    return fits("text", row, columns) and not fields_of(row, columns).intersection(FORMATS[other].names)


def _no_format(says: str, columns: Columns, rows: Sequence[Row], present: Sequence[str]) -> UserError:
    """Says why each format does not fit."""
    lines = [says]
    has = set().union(*(fields_of(row, columns) for row in rows))
    for name, fields in FORMATS.items():
        strangers = [ours for ours in columns if ours not in fields.names]
        missing = [
            one_of.replace("|", " or ") + (" (null in every row)" if column_of(one_of, columns) in present else "")
            for one_of in fields.missing(has)
        ]
        if strangers:
            lines.append(f"  {name} has no {' or '.join(strangers)}, which columns names")
        elif missing:
            lines.append(f"  {name} needs {', '.join(missing)}")
        else:
            lines.append(f"  {name} needs its fields in one and the same row")
    if set(PREFERENCES) <= set(present):
        lines.append(
            "chosen and rejected are preference data, for DPO and reward models. Here answers are trained, and not "
            "which of two is the better. To train the chosen ones: columns: {output: chosen}, {completion: chosen}, or "
            "{messages: chosen} where that is a whole conversation."
        )
    lines += column_hints(rows, present, _all_names())
    lines.append("Set columns to our names and the file's, such as columns: {instruction: question, output: answer}.")
    return UserError("\n".join(lines))


def _all_names() -> Iterator[str]:
    return (name for fields in FORMATS.values() for name in fields.names)


def has(row: Row) -> str:
    """What a row has, for an error about what it has not."""
    return f"the row has {listed(list(row.fields)) or 'no fields'}"


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names in quotes, the first of many."""
    text = ", ".join(shown(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def nearest(name: str, known: Iterable[str]) -> str:
    """` (nearest: instruction)`, or nothing."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (nearest: {near[0]})" if near else ""
