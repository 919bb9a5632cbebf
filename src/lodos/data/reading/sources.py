"""Where rows come from: what the config says, and the one way to read it, row by row.

    data: path or {path, split, name, revision, weight}, or a list of them
      file, folder, glob, URL  ->  locations -> open_file -> json_rows, csv_rows or table_rows
      name on the hub          ->  hub_rows

Every row has the file it stands in and its number there. Nothing is left out and nothing is guessed: what cannot be
read is an error that leads to the spot.

Knows nothing of formats, prompts or tokens.
"""

import dataclasses
import difflib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodos.data.reading.csv_rows import csv_rows
from lodos.data.reading.file_kinds import HEAD_BYTES, kind_by_bytes, kind_problem
from lodos.data.reading.fingerprints import file_fingerprint
from lodos.data.reading.hub_rows import hub_fingerprint, hub_rows
from lodos.data.reading.json_rows import json_rows
from lodos.data.reading.locations import find_files, is_hub_id, kind_of
from lodos.data.reading.open_file import DamagedFileError, open_bytes, open_random_access
from lodos.data.reading.rows import Row, shown
from lodos.data.reading.table_rows import arrow_rows, parquet_rows
from lodos.errors import UserError
from lodos.json_files import is_number
from lodos.places.place import shown_path


@dataclass(frozen=True)
class DataSource:
    """One data set, or one split of it."""

    path: str
    """A file, folder or glob, local or a URL; or the name of a data set on the Hugging Face hub."""
    split: str | None = None
    """The split of a folder or hub data set; by default its only one, or train."""
    name: str | None = None
    """The configuration of a hub data set that has several."""
    revision: str | None = None
    """The branch, tag or commit of a hub data set."""
    weight: float = 1.0
    """How often its examples are met, beside those of other sources."""

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise UserError("\n".join(problems))

    @property
    def on_hub(self) -> bool:
        return is_hub_id(self.path)


def parse_sources(
    data: "str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]", *, name: str = "data"
) -> tuple[DataSource, ...]:
    """The sources that a config names: a path, a mapping with the fields of `DataSource`, or a list of them.

    Args:
        name: of the setting, for the errors.

    Raises:
        UserError: for an empty list, an unknown key (naming the nearest known one) or a value of the wrong type; all
            that is wrong at once.
    """
    entries = [data] if isinstance(data, str | Mapping) else data
    if not isinstance(entries, Sequence) or not entries:
        raise UserError(f"{name}: {shown(data)} is not a path, a mapping with a path, or a list of them.")
    sources, problems = [], []
    for i, entry in enumerate(entries):
        where = name if entries is not data else f"{name}[{i}]"
        found = list(_key_problems(entry))
        if not found:
            try:
                sources.append(DataSource(**({"path": entry} if isinstance(entry, str) else entry)))
            except UserError as error:
                found = str(error).split("\n")
        problems += [f"{where}{problem}" if problem[0] in ".:" else f"{where}.{problem}" for problem in found]
    if problems:
        raise UserError("\n".join(problems))
    return tuple(sources)


def iter_rows(source: DataSource, *, stream: bool = False) -> Iterator[Row]:
    """The rows of a source, file after file, in memory one at a time.

    Args:
        stream: do not copy a hub data set to disk first. Files are always streamed.

    Raises:
        UserError: for what cannot be found or read, naming the file and, once there are rows, the row.
    """
    if source.on_hub:
        yield from hub_rows(source.path, name=source.name, split=source.split, revision=source.revision, stream=stream)
        return
    for file in source_files(source):
        yield from _located(shown_path(file), _file_rows(file))


def source_files(source: DataSource) -> list[str]:
    """The files of a source, in the order in which they are read; none for a hub data set.

    Raises:
        UserError: when there are none, or it is not clear which are meant.
    """
    if source.on_hub:
        return []
    given = [name for name in ("name", "revision") if getattr(source, name) is not None]
    if given:
        raise UserError(
            f"{source.path}: {' and '.join(given)}: only data sets of the Hugging Face hub have that, and this is a "
            "file or folder here. Leave it out."
        )
    return find_files(source.path, source.split)


def fingerprint(source: DataSource) -> str:
    """A hash of all that the rows of a source depend on, hex; that of a changed file is another.

    Of files it holds their names, since rows carry them, and their contents; of a hub data set its commit, the
    configuration and the split. The weight has no part in it.

    Raises:
        UserError: when the source cannot be found or read.
    """
    if source.on_hub:
        return hub_fingerprint(source.path, name=source.name, split=source.split, revision=source.revision)
    digest = hashlib.sha256()
    for file in source_files(source):
        digest.update(f"{len(file)} {file} {file_fingerprint(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """All rows of a file, folder, glob, URL or hub data set.

    Raises:
        UserError: as `iter_rows`.
    """
    return list(iter_rows(DataSource(os.fspath(path))))


def _file_rows(file: str) -> Iterator[Row]:
    label, kind = shown_path(file), kind_of(file)
    if kind not in ("parquet", "arrow"):
        with open_bytes(file) as stream:
            head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
            _refuse_other_kinds(label, kind, head)
            kind = kind or kind_by_bytes(head)
            if kind == "csv":
                yield from csv_rows(stream, label, delimiter="\t" if ".tsv" in Path(label).suffixes else ",")
            elif kind in ("json", None):
                yield from json_rows(stream, label)
    if kind in ("parquet", "arrow"):
        with open_random_access(file) as source:
            _refuse_other_kinds(label, kind, source.read(HEAD_BYTES))
            source.seek(0)
            yield from (parquet_rows if kind == "parquet" else arrow_rows)(source, label)


def _refuse_other_kinds(file: str, kind: str | None, head: bytes) -> None:
    if problem := kind_problem(file, kind, head):
        raise UserError(f"{file}: {problem}.")


def _located(file: str, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows; where the file cannot be read on, the error says after which."""
    number = 0
    try:
        for row in rows:
            number = row.number
            yield row
    except DamagedFileError as error:
        where = f"{file}, after row {number}" if number else file
        raise UserError(f"{where}: {error}.") from None


def _problems(source: DataSource) -> Iterator[str]:
    for field in dataclasses.fields(source):
        value = getattr(source, field.name)
        if field.name == "weight":
            if not is_number(value) or value <= 0:
                yield f"weight: {shown(value)} must be a number above 0."
        elif value is None and field.name != "path":
            continue
        elif not isinstance(value, str):
            yield f"{field.name}: {shown(value)} must be text. Put it in quotation marks."
        elif not value.strip():
            yield f"{field.name}: is empty."


def _key_problems(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        return
    if not isinstance(entry, Mapping):
        yield f": {shown(entry)} is neither a path nor a mapping with a path."
        return
    known = [field.name for field in dataclasses.fields(DataSource)]
    for key in entry:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            yield f"{key}: unknown. " + (f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}.")
    if "path" not in entry:
        yield "path: is missing."
