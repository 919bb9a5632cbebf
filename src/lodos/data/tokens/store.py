"""Tokenized examples on disk, opened by memory map: a million of them cost the pages that are looked at.

A store is a folder of two files.

    tokens.arrow    an Arrow IPC file; one record batch for each chunk written, one row for each example:
                        ids      list<int32>   token ids
                        trained  list<uint8>   0 or 1, whether predicting the token carries loss
                        file     int32         which of the names in store.json
                        number   int64         which row of that file
                        cut      int32         tokens that truncation left off
                        digest   uint64        of ids and trained: equal for examples that train the same
    store.json      the counts, the largest token id, the file names and the size of tokens.arrow

An Arrow file ends in a footer without which it does not open, and store.json is written last. What a kill or a full
disk has left is therefore never taken for whole.

`trained` takes a byte a token rather than Arrow's bit, so that a slice of the file is the array as it is.
"""

import bisect
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from lodos.data.examples import TokenizedExample

if TYPE_CHECKING:
    import pyarrow as pa

TOKENS_FILE = "tokens.arrow"
MARKER_FILE = "store.json"
LAYOUT = 2
"""Of the two files. A store of another layout is not read."""


class BrokenStoreError(Exception):
    """The folder does not hold a whole store. The text says what is amiss."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """Examples side by side: all their tokens in one array, as they are handed between processes and to the disk."""

    ids: np.ndarray
    """int32 [tokens]: example after example."""
    trained: np.ndarray
    """bool [tokens]."""
    lengths: np.ndarray
    """int32 [examples]: tokens of each."""
    files: tuple[str, ...]
    """The names that `file` counts in."""
    file: np.ndarray
    """int32 [examples]."""
    number: np.ndarray
    """int64 [examples]: which row of the file."""
    cut: np.ndarray
    """int32 [examples]: tokens that truncation left off."""
    digest: np.ndarray
    """uint64 [examples]: equal for examples of equal ids and trained."""

    @classmethod
    def of(cls, examples: Iterable[TokenizedExample]) -> "Columns":
        """Copies the examples into columns."""
        examples = list(examples)
        names = {name: i for i, name in enumerate(dict.fromkeys(example.file for example in examples))}
        return cls(
            ids=np.concatenate([np.empty(0, np.int32), *(e.ids for e in examples)], dtype=np.int32),
            trained=np.concatenate([np.empty(0, np.bool_), *(e.trained for e in examples)]),
            lengths=np.array([len(e.ids) for e in examples], np.int32),
            files=tuple(names),
            file=np.array([names[e.file] for e in examples], np.int32),
            number=np.array([e.number for e in examples], np.int64),
            cut=np.array([e.cut for e in examples], np.int32),
            digest=np.array([_digest(e) for e in examples], np.uint64),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[TokenizedExample]:
        """The examples, each with arrays of its own, so that keeping one does not keep all."""
        ends = np.cumsum(self.lengths, dtype=np.int64)
        for i, (end, length) in enumerate(zip(ends.tolist(), self.lengths.tolist(), strict=True)):
            yield TokenizedExample(
                ids=self.ids[end - length : end].copy(),
                trained=self.trained[end - length : end].copy(),
                file=self.files[self.file[i]],
                number=int(self.number[i]),
                cut=int(self.cut[i]),
            )


class StoreWriter:
    """Writes a store chunk by chunk; a context manager. Only a clean exit makes the folder a store."""

    def __init__(self, folder: Path):
        """
        Args:
            folder: exists and holds no store.
        """
        self._folder = folder
        self._names: dict[str, int] = {}
        self._counts = {"examples": 0, "tokens": 0, "trained_tokens": 0, "largest_id": -1}

    def __enter__(self) -> "StoreWriter":
        import pyarrow as pa

        self._schema = _schema()
        self._sink = (self._folder / TOKENS_FILE).open("wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        return self

    def write(self, columns: Columns) -> None:
        """Appends the examples. Columns of no examples are taken, too."""
        import pyarrow as pa

        if not len(columns):
            return
        renumbered = np.array([self._names.setdefault(name, len(self._names)) for name in columns.files], np.int32)
        offsets = np.concatenate([[0], np.cumsum(columns.lengths, dtype=np.int64)])
        if offsets[-1] >= 2**31:
            raise ValueError(f"a chunk of {offsets[-1]} tokens; write fewer examples at once")
        of_tokens = pa.array(offsets.astype(np.int32))
        self._writer.write_batch(
            pa.record_batch(
                [
                    pa.ListArray.from_arrays(of_tokens, pa.array(columns.ids)),
                    pa.ListArray.from_arrays(of_tokens, pa.array(columns.trained.view(np.uint8))),
                    pa.array(renumbered[columns.file]),
                    pa.array(columns.number),
                    pa.array(columns.cut),
                    pa.array(columns.digest),
                ],
                schema=self._schema,
            )
        )
        self._counts["examples"] += len(columns)
        self._counts["tokens"] += len(columns.ids)
        self._counts["trained_tokens"] += int(columns.trained.sum())
        self._counts["largest_id"] = max(self._counts["largest_id"], int(columns.ids.max(initial=-1)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._writer.close()
                self._sink.flush()
                os.fsync(self._sink.fileno())  # or a power cut could leave the marker without what it marks
        finally:
            self._sink.close()
        if kind is None:
            size = (self._folder / TOKENS_FILE).stat().st_size
            marker = {"layout": LAYOUT, "bytes": size, **self._counts, "files": list(self._names)}
            (self._folder / MARKER_FILE).write_text(json.dumps(marker), encoding="utf-8")


class ExampleStore(Sequence[TokenizedExample]):
    """The examples of a store. Each is made when it is asked for; its arrays are read-only views of the file.

    Opening reads the footer and 32 bytes an example, never the tokens. It can be pickled: the other process opens
    the same folder.
    """

    def __init__(self, folder: Path):
        """
        Raises:
            BrokenStoreError: when the folder does not hold a whole store.
        """
        self.folder = folder
        marker = _read_marker(folder)
        self.files: tuple[str, ...] = tuple(marker["files"])
        """The names of the files the examples came from."""
        self.token_count: int = marker["tokens"]
        self.trained_token_count: int = marker["trained_tokens"]
        self.largest_id: int = marker["largest_id"]
        """Of all tokens; -1 where there are none."""
        batches = _open_batches(folder, marker)
        self._offsets = [_list_offsets(batch.column("ids")) for batch in batches]
        self._ids = [_numpy(batch.column("ids").values) for batch in batches]
        self._trained = [_numpy(batch.column("trained").values).view(np.bool_) for batch in batches]
        self._starts = [0, *np.cumsum([len(batch) for batch in batches]).tolist()]
        """Before how many examples each batch begins."""
        self.lengths: np.ndarray = _joined([np.diff(offsets) for offsets in self._offsets], np.int32)
        """int32 [examples]: tokens of each."""
        self.file_indices: np.ndarray = _joined([_numpy(batch.column("file")) for batch in batches], np.int32)
        """int32 [examples]: the place of its file in `files`."""
        self.numbers: np.ndarray = _joined([_numpy(batch.column("number")) for batch in batches], np.int64)
        """int64 [examples]: which row of its file each was."""
        self.cuts: np.ndarray = _joined([_numpy(batch.column("cut")) for batch in batches], np.int32)
        """int32 [examples]: tokens that truncation left off each."""
        self.digests: np.ndarray = _joined([_numpy(batch.column("digest")) for batch in batches], np.uint64)
        """uint64 [examples]: equal for examples that train the same."""
        if (len(self), int(self.lengths.sum(dtype=np.int64))) != (marker["examples"], self.token_count):
            raise BrokenStoreError(f"{folder}: holds {len(self)} examples, {marker['examples']} were written")

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> TokenizedExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenizedExample]: ...
    def __getitem__(self, index: int | slice) -> TokenizedExample | list[TokenizedExample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= i < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        batch = bisect.bisect_right(self._starts, i) - 1
        start, end = self._offsets[batch][i - self._starts[batch] :][:2]
        return TokenizedExample(
            ids=self._ids[batch][start:end],
            trained=self._trained[batch][start:end],
            file=self.files[self.file_indices[i]],
            number=int(self.numbers[i]),
            cut=int(self.cuts[i]),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return ExampleStore, (self.folder,)


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        {
            "ids": pa.list_(pa.int32()),
            "trained": pa.list_(pa.uint8()),
            "file": pa.int32(),
            "number": pa.int64(),
            "cut": pa.int32(),
            "digest": pa.uint64(),
        }
    )


def _digest(example: TokenizedExample) -> int:
    digest = hashlib.blake2b(example.ids.tobytes(), digest_size=8)
    digest.update(example.trained.tobytes())
    return int.from_bytes(digest.digest(), "little")


def _read_marker(folder: Path) -> dict[str, Any]:
    try:
        marker = json.loads((folder / MARKER_FILE).read_text(encoding="utf-8"))
        size = (folder / TOKENS_FILE).stat().st_size
    except (OSError, ValueError) as error:
        raise BrokenStoreError(f"{folder}: not a store: {error}") from None
    layout = marker.get("layout") if isinstance(marker, dict) else None
    if layout != LAYOUT:
        raise BrokenStoreError(f"{folder}: layout {layout}, this version reads {LAYOUT}")
    counts = ("bytes", "examples", "tokens", "trained_tokens", "largest_id")
    names = marker.get("files")
    is_whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_whole or not all(type(marker.get(count)) is int for count in counts):
        raise BrokenStoreError(f"{folder}: {MARKER_FILE} is damaged")
    if marker["bytes"] != size:
        raise BrokenStoreError(f"{folder}: {TOKENS_FILE} has {size} bytes, {marker['bytes']} were written")
    return marker


def _open_batches(folder: Path, marker: dict[str, Any]) -> "list[pa.RecordBatch]":
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(pa.memory_map(str(folder / TOKENS_FILE)))
        if reader.schema != _schema():
            raise BrokenStoreError(f"{folder}: {TOKENS_FILE} has other columns: {reader.schema}")
        return [reader.get_batch(i) for i in range(reader.num_record_batches)]
    except (OSError, pa.ArrowInvalid) as error:
        raise BrokenStoreError(f"{folder}: {TOKENS_FILE} does not open: {error}") from None


def _numpy(array: Any) -> np.ndarray:
    """The array as a view of the file, not a copy."""
    # PyArrow's own to_numpy imports pandas first.
    return np.from_dlpack(array)


def _list_offsets(lists: Any) -> np.ndarray:
    return _numpy(lists.offsets)


def _joined(parts: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *parts], dtype=dtype)
