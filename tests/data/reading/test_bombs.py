"""Packed files that hold far more than anybody meant: refused in time, within memory, before their rows are read."""

import gzip
import resource
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from lodos.data.reading import open_file
from lodos.data.reading.sources import DataSource, iter_rows
from lodos.errors import UserError

SECONDS = 5.0
"""Of processor time, since a machine may be busy with other things."""
GIBIBYTE = 2**20  # in KiB, as getrusage counts
CONTENTS = {
    "rows": b'{"text": "a"}\n',
    "blank lines": b"  \n",
    "one row without end": b" ",
    "one string without end": b"a",
    "brackets": b"[",
    "zeros": b"\0",
    "a column": b"a,b\n",
}


def _gzip(parts: Iterator[bytes], file: Path) -> None:
    packer = zlib.compressobj(9, wbits=31)
    with file.open("wb") as out:
        for part in parts:
            out.write(packer.compress(part))
        out.write(packer.flush())


def _members(parts: Iterator[bytes], file: Path) -> None:
    """As many gzip files one behind the other."""
    with file.open("wb") as out:
        for part in parts:
            out.write(gzip.compress(part))


def _zstd(parts: Iterator[bytes], file: Path) -> None:
    with pa.OSFile(str(file), "wb") as out, pa.CompressedOutputStream(out, "zstd") as packer:
        for part in parts:
            packer.write(part)


PACKERS = {"gz": _gzip, "members.gz": _members, "zst": _zstd}
Pack = Callable[[Iterator[bytes], Path], None]


def _refused(folder: Path, pack: Pack, content: bytes, size: int, suffix: str) -> None:
    block = content * (2**20 // len(content))
    file = folder / f"bomb.{suffix}"
    pack((block for _ in range(size // len(block))), file)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UserError, match=r"bomb\..*: it unpacks to more than 200 times"):
        deque(iter_rows(DataSource(str(file))), maxlen=0)
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIBIBYTE
    file.unlink()


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("packer", PACKERS)
def test_a_bomb_is_refused(packer: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_file, "BOMB_BYTES", 2**22)
    suffix = "csv" if name == "a column" else "jsonl"
    _refused(tmp_path, PACKERS[packer], CONTENTS[name], 2**24, f"{suffix}.{packer.split('.')[-1]}")


def test_it_is_refused_before_its_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_file, "BOMB_BYTES", 2**22)
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(CONTENTS["rows"] * 2**20))
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: it unpacks to more than 200 times its size"):
        next(iter_rows(DataSource(str(file))))


@pytest.mark.long
@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("packer", PACKERS)
def test_a_bomb_of_6_gigabytes_is_refused(packer: str, name: str, tmp_path: Path) -> None:
    suffix = "csv" if name == "a column" else "jsonl"
    _refused(tmp_path, PACKERS[packer], CONTENTS[name], 6 * 10**9, f"{suffix}.{packer.split('.')[-1]}")
