"""Rows of Parquet and Arrow come out as they went in, a few at a time; a file cut short is not taken for whole."""

import datetime
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lodos.data.reading import table_rows
from lodos.data.reading.rows import Row
from lodos.data.reading.sources import read_rows
from lodos.data.reading.table_rows import parquet_rows
from lodos.errors import UserError

ROWS: list[dict[str, Any]] = [
    {"text": f"é {i}\n", "n": None if i % 2 else i, "messages": [{"role": "user", "content": str(i)}] * (i % 3)}
    for i in range(200)
]


def _write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=70)


def _write_file(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)


def _write_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)


WRITERS = pytest.mark.parametrize(
    ("name", "write"),
    [("a.parquet", _write_parquet), ("a.arrow", _write_file), ("b.arrow", _write_stream)],
    ids=["parquet", "arrow file", "arrow stream"],
)
Write = Callable[[pa.Table, Path], None]


@WRITERS
def test_rows_come_out_as_they_went_in(tmp_path: Path, name: str, write: Write) -> None:
    path = tmp_path / name
    write(pa.Table.from_pylist(ROWS), path)
    assert read_rows(path) == [Row(str(path), i + 1, fields) for i, fields in enumerate(ROWS)]


@WRITERS
def test_a_file_cut_short_is_refused(tmp_path: Path, name: str, write: Write) -> None:
    path = tmp_path / name
    write(pa.Table.from_pylist(ROWS), path)
    whole = path.read_bytes()
    for length in (0, 1, 4, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"{re.escape(str(path))}: (the file is empty|not a whole|the end of)"):
            read_rows(path)


def test_a_second_stream_in_one_file_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    _write_stream(pa.Table.from_pylist(ROWS), path)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(UserError, match=r"a.arrow, after row 200: the Arrow stream ends here and the file does not"):
        read_rows(path)


@WRITERS
def test_a_table_without_rows_or_with_equal_names_is_refused(tmp_path: Path, name: str, write: Write) -> None:
    path = tmp_path / name
    write(pa.table({"a": pa.array([], pa.string())}), path)
    with pytest.raises(UserError, match=r"the table has no rows"):
        read_rows(path)
    write(pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"]), path)
    with pytest.raises(UserError, match=r"columns named twice: 'a'"):
        read_rows(path)


@WRITERS
def test_a_value_python_cannot_hold_is_named(tmp_path: Path, name: str, write: Write) -> None:
    path = tmp_path / name
    days = pa.array([datetime.date(2024, 1, 1)] * 99 + [None]).cast(pa.date32())
    text = pa.StringArray.from_buffers(
        2, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])), pa.py_buffer(b"a\xff")
    )
    write(pa.table({"day": days}), path)
    assert [r.fields["day"] for r in read_rows(path)] == days.to_pylist()
    write(pa.table({"fine": ["x", "y"], "text": text}), path)
    with pytest.raises(UserError, match=r"row 2: column 'text' \(string\) cannot be read: .*UTF-?8"):
        read_rows(path)
    write(pa.table({"fine": [1] * 70, "when": pa.array([0] * 69 + [2**52], pa.timestamp("ms"))}), path)
    with pytest.raises(UserError, match=r"row 70: column 'when' \(timestamp\[ms\]\) cannot be read"):
        read_rows(path)


def test_a_row_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x", "y" * 5000, "z"]}), path)
    with (
        pa.OSFile(str(path)) as source,
        pytest.raises(UserError, match=r"a.parquet, row 2: longer than 1,000 bytes"),
    ):
        list(parquet_rows(source, "a.parquet", max_row=1000))


def test_files_keep_their_own_columns_and_types(tmp_path: Path) -> None:
    # `datasets` gives the 1 of the second file as "1".
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"a": [1], "b": [None]}), tmp_path / "1.parquet")
    assert [r.fields for r in read_rows(tmp_path)] == [{"a": "x"}, {"a": 1, "b": None}]


def test_a_damaged_page_is_an_error_after_the_rows_before(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"{i:05}" for i in range(5000)]})
    pq.write_table(table, path, row_group_size=1000, write_page_checksum=True, use_dictionary=False, compression=None)
    content = bytearray(path.read_bytes())
    content[content.index(b"03456")] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.parquet, after row 29\d\d: .*(CRC|checksum)"):
        read_rows(path)


def test_what_datasets_saves_is_read(tmp_path: Path) -> None:
    import datasets

    saved = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(tmp_path / "saved")
    assert [r.fields for r in read_rows(tmp_path / "saved" / "train")] == ROWS
    assert [r.fields for r in read_rows(tmp_path / "saved")] == ROWS  # the split train


def test_a_parquet_file_that_unpacks_beyond_measure_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_rows, "BOMB_BYTES", 2**24)
    file = tmp_path / "bomb.parquet"
    part = pa.table({"text": ["a" * 2**20] * 32})
    pq.write_table(part, file, compression="zstd", use_dictionary=False)
    assert file.stat().st_size < 2**17
    before = pa.total_allocated_bytes()
    with pytest.raises(UserError, match=r"bomb.parquet: unpacks to 33,\d{3},\d{3} bytes, .* a decompression bomb"):
        next(iter(read_rows(str(file))))
    assert pa.total_allocated_bytes() - before < 2**24
