"""What became of the rows: the numbers that show, before training, whether it will go wrong.

A report is a sum: each chunk of rows has one, and adding them in the order of the chunks gives that of the file.

    read = kept + dropped, always
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from lodos.data.asked import AskedRows

SHOWN_ROWS = 10
"""How many row numbers a report remembers of each kind."""


SHOWN_UNREAD = 10
"""How many columns and keys that nothing reads are named in a line."""


@dataclasses.dataclass
class RowTally:
    """Rows of which something is true: how many, and the numbers of the first."""

    count: int = 0
    first: list[int] = dataclasses.field(default_factory=list)

    def add(self, number: int) -> None:
        self.count += 1
        if len(self.first) < SHOWN_ROWS:
            self.first.append(number)

    def extend(self, later: "RowTally") -> None:
        """Adds the rows of a later part of the file."""
        self.count += later.count
        self.first += later.first[: SHOWN_ROWS - len(self.first)]

    def __str__(self) -> str:
        """`3 (rows 4, 9, 17)`, with "..." when there are more than it remembers."""
        if not self.count:
            return "0"
        more = ", ..." if self.count > len(self.first) else ""
        return f"{self.count} (row{'s' * (self.count > 1)} {', '.join(map(str, self.first))}{more})"


@dataclasses.dataclass
class DroppedRows(RowTally):
    """Rows left out for one reason."""

    example: str = ""
    """What the first of them had to say."""

    def extend(self, later: RowTally) -> None:
        if not self.count and isinstance(later, DroppedRows):
            self.example = later.example
        super().extend(later)


_TALLIES = ("end_untrained", "truncated", "duplicates")


@dataclasses.dataclass
class FileReport:
    """What became of the rows of one file."""

    file: str
    format: str = ""
    """One line: which format the rows were read as, and by which columns."""
    read: int = 0
    kept: int = 0
    dropped: dict[str, DroppedRows] = dataclasses.field(default_factory=dict)
    """By reason."""
    tokens: int = 0
    """Of the rows kept."""
    trained_tokens: int = 0
    """Those of them that carry loss."""
    longest: int = 0
    """Tokens of the longest row kept."""
    end_untrained: RowTally = dataclasses.field(default_factory=RowTally)
    """Kept, but nothing that ends an answer is trained: the model would not learn from them to stop."""
    truncated: RowTally = dataclasses.field(default_factory=RowTally)
    """Kept, cut to the longest length."""
    special_tokens: dict[str, RowTally] = dataclasses.field(default_factory=dict)
    """Rows whose own text holds a special token, by token."""
    unread: dict[str, RowTally] = dataclasses.field(default_factory=dict)
    """Rows that have something in a column, or in a key of their messages, which nothing reads; by its name."""
    left_out: DroppedRows = dataclasses.field(default_factory=DroppedRows)
    """Kept, though the chat template leaves out some of what they say."""
    duplicates: RowTally = dataclasses.field(default_factory=RowTally)
    """Kept, with the same tokens as an earlier row of this or another file."""
    asked: AskedRows = dataclasses.field(default_factory=AskedRows)
    """How the rows kept were written."""

    @property
    def dropped_count(self) -> int:
        return sum(rows.count for rows in self.dropped.values())

    def drop(self, reason: str, number: int, detail: str) -> None:
        """Counts a row that is left out."""
        self.dropped.setdefault(reason, DroppedRows(example=detail)).add(number)

    def note_special_token(self, token: str, number: int) -> None:
        """Counts a row whose own text holds a special token."""
        self.special_tokens.setdefault(token, RowTally()).add(number)

    def note_unread(self, name: str, number: int) -> None:
        """Counts a row that has something in a column or key which nothing reads."""
        self.unread.setdefault(name, RowTally()).add(number)

    def note_left_out(self, number: int, detail: str) -> None:
        """Counts a row that is kept without all that it says."""
        self.left_out.example = self.left_out.example or detail
        self.left_out.add(number)

    def extend(self, later: "FileReport") -> None:
        """Adds the report of a later part of the same file."""
        assert later.file == self.file
        for name in ("read", "kept", "tokens", "trained_tokens"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.longest = max(self.longest, later.longest)
        self.left_out.extend(later.left_out)
        for name in _TALLIES:
            getattr(self, name).extend(getattr(later, name))
        for reason, rows in later.dropped.items():
            self.dropped.setdefault(reason, DroppedRows()).extend(rows)
        for own, others in ((self.special_tokens, later.special_tokens), (self.unread, later.unread)):
            for name, rows in others.items():
                own.setdefault(name, RowTally()).extend(rows)
        self.asked.extend(later.asked)

    def lines(self) -> list[str]:
        """The report as text, the file first; what did not happen is not mentioned."""
        share = self.trained_tokens / max(self.tokens, 1)
        lines = [
            f"{self.file}: {self.kept} of {self.read} rows kept, {self.tokens} tokens, {self.trained_tokens} of them "
            f"trained ({share:.0%}); longest row {self.longest} tokens. Read as {self.format}."
        ]
        lines += [f"left out, {reason}: {rows}; {rows.example}" for reason, rows in self.dropped.items()]
        if self.left_out.count:
            lines.append(f"the chat template leaves out text: {self.left_out}; {self.left_out.example}")
        lines += [
            f"{what}: {rows}"
            for what, rows in (
                ("the end of the answer is not trained", self.end_untrained),
                ("cut to the longest length", self.truncated),
                ("duplicates of earlier rows", self.duplicates),
                *((f"the text holds the special token {token}", rows) for token, rows in self.special_tokens.items()),
            )
            if rows.count
        ]
        return [lines[0], *(f"  {line}" for line in lines[1:])]


@dataclasses.dataclass
class PreparationReport:
    """What became of the rows of all files."""

    files: list[FileReport]
    """Of the data."""
    held_out_files: list[FileReport] = dataclasses.field(default_factory=list)
    """Of the validation data, where it has a source of its own."""
    held_out_in_training: int = 0
    """Held-out examples whose tokens also occur among the training examples."""

    @property
    def read(self) -> int:
        return sum(file.read for file in self.files)

    @property
    def kept(self) -> int:
        return sum(file.kept for file in self.files)

    @property
    def dropped(self) -> int:
        return sum(file.dropped_count for file in self.files)

    @property
    def tokens(self) -> int:
        return sum(file.tokens for file in self.files)

    @property
    def trained_tokens(self) -> int:
        return sum(file.trained_tokens for file in self.files)

    def unread(self) -> dict[str, int]:
        """The columns, and the keys of messages, that nothing reads, and in how many rows they hold something."""
        counts: dict[str, int] = {}
        for file in (*self.files, *self.held_out_files):
            for name, rows in file.unread.items():
                counts[name] = counts.get(name, 0) + rows.count
        return counts

    def unread_line(self) -> str | None:
        """The columns and keys that nothing reads in one line; None where all are read."""
        counts = self.unread()
        if not counts:
            return None
        named = [
            f"{name if name.strip() else repr(name)} (in {count} row{'s' * (count > 1)})"
            for name, count in counts.items()
        ]
        more = f" and {len(named) - SHOWN_UNREAD} more" if len(named) > SHOWN_UNREAD else ""
        return f"columns and keys that nothing reads: {', '.join(named[:SHOWN_UNREAD])}{more}"

    def lines(self) -> list[str]:
        """The report as text, file by file."""
        lines = [line for file in self.files for line in file.lines()]
        lines += [f"held out: {line}" for file in self.held_out_files for line in file.lines()]
        if unread := self.unread_line():
            lines.append(unread)
        if self.held_out_in_training:
            lines.append(f"held-out examples that are also trained on: {self.held_out_in_training}")
        return lines


def add_reports(by_file: dict[str, FileReport], later: Iterable[FileReport]) -> None:
    """Adds the reports of a later chunk to those of the files so far, which stay in the order they first occur in."""
    for report in later:
        by_file.setdefault(report.file, FileReport(report.file, report.format)).extend(report)


def to_json(reports: Iterable[FileReport]) -> list[dict[str, Any]]:
    """Plain values that `from_json` reads back."""
    return [dataclasses.asdict(report) for report in reports]


def from_json(values: Iterable[Mapping[str, Any]]) -> list[FileReport]:
    """The reports that `to_json` was given."""
    return [
        FileReport(
            **{
                **value,
                **{name: RowTally(**value[name]) for name in _TALLIES},
                "left_out": DroppedRows(**value["left_out"]),
                "dropped": {reason: DroppedRows(**rows) for reason, rows in value["dropped"].items()},
                "asked": AskedRows(**value["asked"]),
                **{
                    kind: {name: RowTally(**rows) for name, rows in value[kind].items()}
                    for kind in ("special_tokens", "unread")
                },
            }
        )
        for value in values
    ]
