"""Bytes come out unpacked whatever the file is called; a file cut short or damaged never ends quietly."""

import gzip
import io
import re
import tracemalloc
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from lodos.data.reading import open_file
from lodos.data.reading.open_file import DamagedFileError, open_bytes, open_random_access
from lodos.data.reading.sources import DataSource, iter_rows
from lodos.errors import UserError

CONTENT = "".join(f"row {i * i}\n" for i in range(20_000)).encode()


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return sink.getvalue().to_pybytes()


PACKERS = pytest.mark.parametrize("pack", [gzip.compress, _zstd], ids=["gz", "zst"])
Pack = Callable[[bytes], bytes]


def _read(path: Path) -> bytes:
    with open_bytes(str(path)) as stream:
        return stream.read()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, _zstd, lambda c: gzip.compress(c[:99]) + gzip.compress(c[99:])])
def test_the_bytes_say_how_they_are_packed(tmp_path: Path, name: str, pack: Pack) -> None:
    (tmp_path / name).write_bytes(pack(CONTENT))
    assert _read(tmp_path / name) == CONTENT


@PACKERS
def test_a_packed_file_cut_short_is_refused_after_what_it_holds(tmp_path: Path, pack: Pack) -> None:
    path = tmp_path / "a"
    packed = pack(CONTENT)
    for length in (5, 100, len(packed) // 2, len(packed) - 9, len(packed) - 1):
        path.write_bytes(packed[:length])
        with open_bytes(str(path)) as stream:
            read = _until_damaged(stream)
        assert CONTENT.startswith(read)
        assert len(read) > 0.4 * len(CONTENT) * length / len(packed) - 60_000


def _until_damaged(stream: io.BufferedReader) -> bytes:
    read = b""
    try:
        while part := stream.read1(1000):
            read += part
    except DamagedFileError:
        return read
    raise AssertionError("the file ended as if it were whole")


@PACKERS
def test_the_error_says_that_it_is_cut_short(tmp_path: Path, pack: Pack) -> None:
    (tmp_path / "a").write_bytes(pack(CONTENT)[:-1])
    with pytest.raises(DamagedFileError, match="cut short, and what is missing cannot be told"):
        _read(tmp_path / "a")


@PACKERS
def test_garbage_behind_the_end_is_refused(tmp_path: Path, pack: Pack) -> None:
    path = tmp_path / "a"
    path.write_bytes(pack(CONTENT) + b"garbage")
    with pytest.raises(DamagedFileError):
        _read(path)


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(CONTENT))
    packed[-6] ^= 1  # the checksum
    (tmp_path / "a.gz").write_bytes(packed)
    with pytest.raises(DamagedFileError, match=r"the gzip file is damaged: CRC"):
        _read(tmp_path / "a.gz")


@PACKERS
def test_reading_unpacks_no_more_than_it_is_asked_for(tmp_path: Path, pack: Pack) -> None:
    (tmp_path / "a").write_bytes(pack(bytes(2**20)) * 50)
    tracemalloc.start()
    with open_bytes(str(tmp_path / "a")) as stream:
        assert stream.read1(2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    for opened in (open_bytes, open_random_access):
        with (
            pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))}/none: cannot be read"),
            opened(f"{tmp_path}/none"),
        ):
            pass
        with pytest.raises(UserError, match=r"memory://none: nothing is there"), opened("memory://none"):
            pass


@pytest.mark.parametrize("what", ["lines", "blank", "one row"])
def test_a_file_that_unpacks_beyond_all_measure_is_refused(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_file, "BOMB_BYTES", 2**22)
    row = {"lines": b'{"text": "a"}\n', "blank": b"  \n", "one row": b" "}[what]
    file = tmp_path / "bomb.jsonl.gz"
    file.write_bytes(gzip.compress(row * (2**24 // len(row))))
    with pytest.raises(UserError, match="bomb"):
        deque(iter_rows(DataSource(str(file))), maxlen=0)
