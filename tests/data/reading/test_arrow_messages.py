"""Compressed Arrow batches: what they unpack to is known before, and beyond measure refused unread."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lodos.data.reading import table_rows
from lodos.data.reading.arrow_messages import unpacked_size
from lodos.data.reading.sources import read_rows
from lodos.errors import UserError

WRITERS: dict[str, Callable[..., Any]] = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}
COMPRESSIONS = ("zstd", "lz4", None)


def _write(path: Path, table: pa.Table, kind: str, compression: str | None, rows: int = 50) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as out, WRITERS[kind](out, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("has_dictionary", [False, True])
def test_rows_of_compressed_batches_come_out_as_they_went_in(
    tmp_path: Path, kind: str, compression: str | None, has_dictionary: bool
) -> None:
    texts = pa.array([f"some text {i % 7} " * 20 for i in range(200)])
    table = pa.table({"text": texts.dictionary_encode() if has_dictionary else texts, "n": list(range(200))})
    _write(tmp_path / "a.arrow", table, kind, compression)
    assert [row.fields for row in read_rows(tmp_path / "a.arrow")] == table.to_pylist()


@pytest.mark.parametrize("compression", COMPRESSIONS[:2])
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("has_dictionary", [False, True])
def test_a_batch_that_unpacks_beyond_measure_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, compression: str, has_dictionary: bool
) -> None:
    monkeypatch.setattr(table_rows, "BOMB_BYTES", 2**22)
    texts = pa.array(["a" * 2**20] * 64 if not has_dictionary else ["a" * 2**26, "b"])
    table = pa.table({"text": texts.dictionary_encode() if has_dictionary else texts})
    path = tmp_path / "bomb.arrow"
    _write(path, table, kind, compression, rows=64)
    assert path.stat().st_size < 2**19
    before = pa.total_allocated_bytes()
    with pytest.raises(UserError, match=r"bomb\.arrow: a batch unpacks to 67,\d{3},\d{3} bytes, .*decompression bomb"):
        read_rows(path)
    assert pa.total_allocated_bytes() - before < 2**22


def test_the_size_is_that_of_the_buffers(tmp_path: Path) -> None:
    for compression, size in (("zstd", 100_000 + 11 * 4), (None, 0)):
        _write(tmp_path / "a", pa.table({"text": ["a" * 10_000] * 10}), "stream", compression)
        with pa.OSFile(str(tmp_path / "a")) as source:
            schema, batch = pa.ipc.read_message(source), pa.ipc.read_message(source)
        assert (unpacked_size(schema), unpacked_size(batch)) == (0, size)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_changed_byte_anywhere_is_refused_or_read(tmp_path: Path, kind: str) -> None:
    table = pa.table({"text": ["some text " * 5] * 20})
    path = tmp_path / "a.arrow"
    _write(path, table, kind, "zstd")
    whole = path.read_bytes()
    for i in range(0, len(whole), 3):
        for value in (0, 0xFF, whole[i] ^ 0x40):
            path.write_bytes(whole[:i] + bytes([value]) + whole[i + 1 :])
            try:
                read_rows(path)
            except UserError as error:
                assert "a.arrow" in str(error)  # noqa: PT017 (some are read)
