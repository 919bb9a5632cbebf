"""A row as it was read, with what a person needs to find it again."""

from dataclasses import dataclass
from typing import Any


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
