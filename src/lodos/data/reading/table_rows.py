"""Rows of a Parquet or an Arrow file, each with its number.

Read with pyarrow, as Hugging Face `datasets` does underneath. `datasets` itself casts all files to the columns of the
first, so that the numbers of one file become text when another has text there; and it writes a copy of everything to
its cache before the first row. Here each file keeps its own columns, and rows come a few at a time.

Knows nothing of what the columns mean.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lodos.data.reading.arrow_messages import blocks_of_file, unpacked_size
from lodos.data.reading.open_file import BOMB_BYTES, BOMB_RATIO, MAX_ROW_BYTES, DamagedFileError
from lodos.data.reading.rows import Row
from lodos.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 64
"""Most rows held as Python objects."""
BYTES_AT_ONCE = 64 * 2**20
"""About as many bytes of a Parquet file are unpacked at once, if its own statistics are right."""
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def parquet_rows(source: "pa.NativeFile", file: str, *, max_row: int = MAX_ROW_BYTES) -> Iterator[Row]:
    """Reads a Parquet file; nulls are None, lists are lists, structs and maps are dicts.

    Args:
        source: with random access.
        file: what the rows and errors call it.
        max_row: most bytes of a row in memory.

    Raises:
        UserError: for a file that is no Parquet file or has no rows, one that unpacks beyond measure, columns of one
            name, a value that Python cannot hold (with its row and column) and a row longer than `max_row`.
        DamagedFileError: when it cannot be read on.
    """
    import pyarrow.parquet as pq

    with _opening(file, "Parquet", source):
        table = pq.ParquetFile(source, page_checksum_verification=True)
        columns = table.schema_arrow.names
        rows = table.metadata.num_rows
        size = sum(table.metadata.row_group(i).total_byte_size for i in range(table.metadata.num_row_groups))
        if size > max(BOMB_BYTES, BOMB_RATIO * source.size()):
            raise UserError(
                f"{file}: unpacks to {size:,} bytes, more than {BOMB_RATIO} times its size, as text does not: a "
                "decompression bomb. If it is meant, write it uncompressed."
            )
    at_once = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE * rows // max(size, 1)))
    yield from _rows(table.iter_batches(batch_size=at_once), columns, rows, file, max_row)


def arrow_rows(source: "pa.NativeFile", file: str, *, max_row: int = MAX_ROW_BYTES) -> Iterator[Row]:
    """Reads an Arrow IPC file (Feather) or stream (what `datasets` saves).

    A record batch is read at once, however large its writer has made it.

    Args:
        source, file, max_row: as for `parquet_rows`.

    Raises:
        UserError: as for `parquet_rows`, and for a stream without its end mark, which Arrow would take for whole.
        DamagedFileError: when it cannot be read on, or goes on behind its end mark.
    """
    import pyarrow as pa

    with _opening(file, "Arrow", source):
        is_file = source.read(6) == b"ARROW1"
        source.seek(max(0, source.size() - len(_END_OF_STREAM)))
        if not is_file and source.read() != _END_OF_STREAM:
            raise UserError(f"{file}: the end of the Arrow stream is missing. Copy or download the file again.")
        source.seek(0)
        batches = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        columns = batches.schema.names
    if isinstance(batches, pa.ipc.RecordBatchFileReader):
        found: Iterable[pa.RecordBatch] = _all_of_file(batches, source)
    else:
        found = _all_of_stream(batches, source)
    yield from _rows(found, columns, None, file, max_row)


def _all_of_file(batches: "pa.ipc.RecordBatchFileReader", source: "pa.NativeFile") -> "Iterator[pa.RecordBatch]":
    blocks = list(blocks_of_file(source))
    for kind, offset in blocks:
        if kind == "dictionary":  # all of them are read with the first batch
            _refuse_bomb(source, offset)
    for i, offset in enumerate(offset for kind, offset in blocks if kind == "record batch"):
        _refuse_bomb(source, offset)
        yield batches.get_batch(i)


def _all_of_stream(batches: "Iterable[pa.RecordBatch]", source: "pa.NativeFile") -> "Iterator[pa.RecordBatch]":
    iterator = iter(batches)
    while True:
        place = source.tell()
        while _refuse_bomb(source, source.tell()) == "dictionary":
            pass
        source.seek(place)
        try:
            batch = next(iterator)
        except StopIteration:
            break
        yield batch
    if source.tell() < source.size():
        raise DamagedFileError("the Arrow stream ends here and the file does not. One file holds one stream")


def _refuse_bomb(source: "pa.NativeFile", place: int) -> str | None:
    """Looks at the message that begins there; gives its kind, None at the end of a stream."""
    import pyarrow as pa

    source.seek(place)
    try:
        message = pa.ipc.read_message(source)
    except EOFError:
        return None
    size, packed = unpacked_size(message), 0 if message.body is None else message.body.size
    if size > max(BOMB_BYTES, BOMB_RATIO * packed):
        raise DamagedFileError(
            f"a batch unpacks to {size:,} bytes, more than {BOMB_RATIO} times its size, as text does not: a "
            "decompression bomb. If it is meant, write it uncompressed"
        )
    return message.type


@contextmanager
def _opening(file: str, kind: str, source: "pa.NativeFile") -> Iterator[None]:
    try:
        if not source.size():
            raise UserError(f"{file}: the file is empty.")
        yield
    except UserError:
        raise
    except _failures() as error:
        raise UserError(f"{file}: not a whole {kind} file: {_first_line(error)}.") from None


def _rows(
    batches: "Iterable[pa.RecordBatch]", columns: list[str], expected: int | None, file: str, max_row: int
) -> Iterator[Row]:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise UserError(f"{file}: columns named twice: {', '.join(map(repr, twice))}.")
    number = 0
    for batch in _until_damaged(batches):
        _refuse_invalid(batch, file, number)
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            part = batch.slice(start, ROWS_AT_ONCE)
            if part.nbytes > max_row:
                _refuse_long_row(part, file, number, max_row)
            for fields in _as_python(part, file, number):
                number += 1
                yield Row(file, number, fields)
    if expected is not None and number != expected:
        raise DamagedFileError(f"the file says that it has {expected} rows")
    if not number:
        raise UserError(f"{file}: the table has no rows.")


def _until_damaged(batches: "Iterable[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
    iterator = iter(batches)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except _failures() as error:
            raise DamagedFileError(_first_line(error)) from None
        yield batch


def _refuse_invalid(batch: "pa.RecordBatch", file: str, before: int) -> None:
    try:
        # Text may not be UTF-8, and offsets that point outside would be read from memory that is not the file's.
        batch.validate(full=True)
    except _failures() as error:
        raise _first_unreadable(batch, file, before) or DamagedFileError(_first_line(error)) from None


def _refuse_long_row(part: "pa.RecordBatch", file: str, before: int, max_row: int) -> None:
    for i in range(part.num_rows):
        if part.slice(i, 1).nbytes > max_row:
            raise UserError(
                f"{file}, row {before + i + 1}: longer than {max_row:,} bytes, which is no text to train on."
            )


def _as_python(part: "pa.RecordBatch", file: str, before: int) -> list[dict[str, Any]]:
    try:
        return part.to_pylist(maps_as_pydicts="strict")
    except _failures() as error:
        raise _first_unreadable(part, file, before) or DamagedFileError(_first_line(error)) from None


def _first_unreadable(part: "pa.RecordBatch", file: str, before: int) -> UserError | None:
    for i in range(part.num_rows):
        for name, column in zip(part.schema.names, part.columns, strict=True):
            try:
                value = column.slice(i, 1)
                value.validate(full=True)
                value.to_pylist(maps_as_pydicts="strict")
            except _failures() as error:
                where = f"{file}, row {before + i + 1}: column {name!r} ({column.type})"
                return UserError(f"{where} cannot be read: {_first_line(error)}.")
    return None


def _failures() -> tuple[type[Exception], ...]:
    """What pyarrow fails with: its own; text that is not UTF-8; a date beyond the year 9999; damaged sizes."""
    import pyarrow as pa

    return pa.ArrowException, OSError, ValueError, ArithmeticError, MemoryError


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
