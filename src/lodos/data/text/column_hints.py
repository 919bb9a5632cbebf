"""What to say of a file whose columns fit no format, where they show what was meant.

instruction;output                        one column: separated by semicolons
Instruction, " output"                    spelled otherwise
conversation: [{"role": ...}, ...]        messages under another name
{"data": [{...}, {...}]}                  rows within an object
{"instruction": ["a", "b"], ...}          columns, not rows
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lodos.data.reading.rows import Row, shown

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_OF_MESSAGES = ("role", "from")


def column_hints(rows: Sequence[Row], present: Sequence[str], fields: Iterable[str]) -> list[str]:
    """The lines of advice; none where nothing shows.

    Args:
        rows: the first of the file.
        present: their columns.
        fields: the names of all fields of formats.
    """
    known = list(dict.fromkeys(fields))
    return [*_separated(present), *_spelled(present, known), *_messages(rows, present), *_within(rows, present, known)]


def are_columns(rows: Sequence[Row]) -> bool:
    """Whether what was read as a row is a table by columns, as pandas writes one: each value is a list, or a mapping of
    numbers, of the same length."""
    if len(rows) != 1 or len(rows[0].fields) < 2:
        return False
    values = list(rows[0].fields.values())
    are_lists = all(isinstance(value, list) and all(isinstance(item, str) for item in value) for value in values)
    are_mappings = all(isinstance(value, Mapping) and all(str(key).isdigit() for key in value) for value in values)
    return (are_lists or are_mappings) and len({len(value) for value in values}) == 1 and bool(values[0])


def _separated(present: Sequence[str]) -> Iterator[str]:
    if len(present) == 1:
        for separator, name in _SEPARATORS.items():
            if separator in present[0].strip():
                said = f"{shown(present[0])} is one column: its values are separated by {name}, not by commas."
                yield f"{said} Save the file with commas, or with tabs as .tsv."


def _spelled(present: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    spelled = {name.strip().casefold(): name for name in reversed(present)}
    meant = {field: spelled[field] for field in known if field not in present and field in spelled}
    if meant:
        named = ", ".join(f"{ours}: {theirs!r}" for ours, theirs in meant.items())
        yield f"Some are spelled otherwise: columns: {{{named}}}."


def _messages(rows: Sequence[Row], present: Sequence[str]) -> Iterator[str]:
    for name in present:
        if any(_is_conversation(row.fields.get(name)) for row in rows):
            yield f"{shown(name)} holds messages: columns: {{messages: {name}}}."
            return


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, Mapping) and any(key in item for key in _OF_MESSAGES) for item in value)
    )


def _within(rows: Sequence[Row], present: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    """Of a file that is one object, with the rows somewhere in it."""
    if len(rows) != 1:
        return
    fields = rows[0].fields
    for name in present:
        value = fields[name]
        if isinstance(value, list) and value and all(_is_row(item, known) for item in value):
            yield f"{shown(name)} holds {len(value)} objects: if these are the rows, write them alone, as a JSON array."
    if fields and all(_is_row(value, known) for value in fields.values()):
        yield "The file is one object of objects: if these are the rows, write them as a JSON array."


def _is_row(value: Any, known: Sequence[str]) -> bool:
    return isinstance(value, Mapping) and any(name in value for name in known)
