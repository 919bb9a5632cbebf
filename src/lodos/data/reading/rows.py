"""A row as it was read, with what a person needs to find it again, and the error that leads there."""

from dataclasses import dataclass
from typing import Any

from lodos.errors import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file."""

    file: str
    number: int
    """From 1: the place in a JSON array or a table, the line in JSONL."""
    fields: dict[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file}, row {self.number}"


class RowError(UserError):
    """A row that was read whole but is not what its format wants; the rows around it are not touched by it.

    Args:
        where: the file and row.
        problems: (field, what is wrong with it), at least one; all that is wrong with the row.
    """

    def __init__(self, where: str, *problems: tuple[str, str]) -> None:
        self.where = where
        self.problems = problems
        super().__init__("\n".join(f"{where}: {field} {what}" for field, what in problems))

    @property
    def field(self) -> str:
        """The first field that is wrong."""
        return self.problems[0][0]

    @property
    def what(self) -> str:
        """What is wrong with it."""
        return self.problems[0][1]

    def __reduce__(self) -> tuple[Any, ...]:  # an exception is pickled by its text otherwise; workers send these home
        return type(self), (self.where, *self.problems)


class EmptyAnswerError(RowError):
    """A row that has the format, but whose answer says nothing."""


class DroppedTextError(RowError):
    """A row that has the format, but of which the chat template leaves something out."""


def shown(value: Any, most: int = 60) -> str:
    """A value of a row for an error message: on one line, its type unless it is text, cut where it is long."""
    if value is None:
        return "null"
    # A long value is cut before it is spelled, since a row may have megabytes.
    head = value[:most] if isinstance(value, str | list) else value
    text = repr(head) if isinstance(head, str) and is_unicode(head) else ascii(head)
    text = text if len(text) <= most else text[: most - 3] + "..."
    return text if isinstance(value, str) else f"{type(value).__name__} {text}"


def is_unicode(text: str) -> bool:
    """Whether `text` has no half of a surrogate pair, which JSON can spell ("\\ud83d") and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
