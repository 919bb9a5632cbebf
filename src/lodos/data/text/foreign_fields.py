"""Columns that mean something elsewhere and cannot be followed here: a row is refused when that would change what it
trains.

    images, videos, audios        LLaMA-Factory, TRL: what the text speaks of, and a model of text cannot see
    kto_tag, label: false         LLaMA-Factory, TRL: this answer is a bad one
    chosen, rejected              the answers of preference data, where the conversation ends before one
    system, tools, history, ...   beside a format that has no place for them
    system_prompt, context, ...   other names of a field of the format, which the row has not

What a row may well be trained without (an id, a source) is named in the report, not here.
"""

from collections.abc import Collection, Iterator, Mapping

from lodos.data.reading.rows import Row
from lodos.data.text.fields import FORMATS, PREFERENCES, Columns, columns_read, value_of

_MEDIA = {
    **dict.fromkeys(("images", "image"), "pictures"),
    **dict.fromkeys(("videos", "video"), "films"),
    **dict.fromkeys(("audios", "audio"), "sound"),
}

_PLACES: Mapping[str, tuple[type, str]] = {
    "system": (str, "a system turn"),
    "history": (list, "earlier turns"),
    "tools": (list, "tools"),
    "functions": (list, "tools"),
}
"""(what it is when it is meant so, its meaning) of fields that some formats have and others have no place for."""

_OTHER_NAMES: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("system_prompt", "system_message"), ("system", "a system turn")),
    "context": ("input", "what an instruction goes with (Dolly)"),
}
"""(the field that it is in other data sets, its meaning)."""


def foreign_problems(row: Row, columns: Columns, format_name: str) -> Iterator[tuple[str, str]]:
    """(column, what is wrong) for each that cannot be left out without training something else.

    Args:
        columns: our field names to the file's; what the format reads by them means what it says.
        format_name: of `FORMATS`; text is trained as it stands, whatever is beside it.
    """
    if format_name == "text":
        return
    reads = columns_read(format_name, columns)
    unread = {name: value for name, value in row.fields.items() if value is not None and name not in reads}
    for name, what in _MEDIA.items():
        if unread.get(name):
            yield (
                name,
                f"holds {what}, which a model of text is not shown. Leave such rows out, or take the column out.",
            )
    if str(unread.get("kto_tag", True)).strip().lower() in ("false", "0"):  # in a CSV file all is text
        yield "kto_tag", _BAD_ANSWER
    if unread.get("label") is False and (format_name == "chat" or "completion" in row.fields):
        yield "label", _BAD_ANSWER
    for name, (kind, meaning) in _PLACES.items():
        value = unread.get(name)
        if isinstance(value, str):
            is_meant = value.strip() not in ("", "[]", "null") and (kind is str or value.lstrip().startswith("["))
        else:
            is_meant = isinstance(value, kind) and bool(value)
        if is_meant:
            yield name, f"is {meaning}, for which {format_name} has no place. Put all into the messages of a chat row."

    for name, (field, meaning) in _OTHER_NAMES.items():
        value = unread.get(name)
        if not isinstance(value, str) or not value.strip() or value_of(row, field, columns) or _is_said(row, value):
            continue
        if field in FORMATS[format_name].names:
            yield name, f"is {meaning}, and would be left out. Set columns: {{{field}: {name}}}, or take it out."
        elif field == "system":
            yield name, f"is {meaning}, for which {format_name} has no place. Put all into the messages of a chat row."


def _is_said(row: Row, text: str) -> bool:
    """Whether a message of the row says just that."""
    lists = (value for value in row.fields.values() if isinstance(value, list))
    messages = (message for found in lists for message in found if isinstance(message, Mapping))
    return any(text in (message.get("content"), message.get("value")) for message in messages)


def preference_problem(row: Row, reads: Collection[str]) -> tuple[str, str] | None:
    """What to say of a conversation that ends before its answer, when that stands in a column of preference data."""
    there = [name for name in PREFERENCES if row.fields.get(name) and name not in reads]
    if not there:
        return None
    return (
        " and ".join(there),
        "hold the answer that the conversation ends before: preference data, for DPO and reward models. Here answers "
        "are trained, and not which of two is the better. Put the chosen ones at the end of the conversations.",
    )


_BAD_ANSWER = (
    "is false: the answer is one of the bad ones, and training on it would teach it. Leave the row out, as on_bad_row: "
    "drop does."
)
