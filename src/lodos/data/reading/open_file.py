"""The bytes of a file, wherever it lies and however it is compressed.

Whether bytes are gzip or Zstandard is seen in the first of them, whatever the file is called: servers unpack `.gz`
files on the way, and downloads lose their suffixes. Nothing is ever read whole; a compressed file cut short, whose
rows would otherwise end as if that were all, is an error.

Knows nothing of rows.
"""

import functools
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lodos.data.reading.locations import local_path, remote_place
from lodos.errors import UserError
from lodos.places.place import is_url, shown_path
from lodos.places.reading import opened
from lodos.places.store import StoreFailingError, refusals

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 2**20
"""Bytes read at once."""
MAX_ROW_BYTES = 256 * 2**20
"""A longer row is an error: a lost quotation mark or a decompression bomb, not text to train on."""

BOMB_BYTES = 64 * 2**20
"""So much may come out of any compressed file."""
BOMB_RATIO = 200
"""And more only if it is no more than so many times what went in; text comes to some ten times."""

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
COMPRESSED = (_GZIP, _ZSTD)
"""How compressed files begin that are unpacked on the way."""


class DamagedFileError(Exception):
    """The file cannot be read any further. The text says why, and whoever counts the rows says where."""


class BombError(DamagedFileError):
    """It unpacks to so much that nobody can have meant it."""


@contextmanager
def open_bytes(file: str) -> Iterator[io.BufferedReader]:
    """Opens a local file or URL for reading from front to back, decompressed.

    Raises:
        UserError: when it cannot be opened.
        DamagedFileError: from the reads, when it cannot be read on.
    """
    with open_raw(file) as raw:
        if raw.peek(len(_ZSTD)).startswith(COMPRESSED) and not is_url(file):
            _probe(file, os.stat(raw.fileno()).st_mtime_ns)
        yield io.BufferedReader(_unpacked(raw), CHUNK)


@functools.lru_cache(maxsize=4096)
def _probe(file: str, _changed: int) -> None:
    """Unpacks as much as any file may hold, so that it is said before its rows are read, which takes far longer."""
    with _opened(file, sequential=True) as raw:
        source = _unpacked(raw)
        left = BOMB_BYTES + 2 * CHUNK  # what is wrong is said by the read after it
        try:
            while left > 0 and (part := source.read(min(left, CHUNK))):
                left -= len(part)
        except BombError:
            raise
        except DamagedFileError:  # said when its rows have been read so far
            return


def _unpacked(raw: io.BufferedReader) -> "_Reading":
    head = raw.peek(len(_ZSTD))
    if not head.startswith(COMPRESSED):
        return _Reading(raw, None)
    packed = _Counted(raw)
    if head.startswith(_GZIP):
        return _Reading(gzip.GzipFile(fileobj=packed), packed)  # pyright: ignore[reportArgumentType]
    import pyarrow as pa

    return _Reading(pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "zstd"), packed)


@contextmanager
def open_random_access(file: str) -> Iterator["pa.NativeFile"]:
    """Opens a local file or URL for pyarrow, which reads here and there.

    A local file is read rather than mapped: pages of a map stay resident and would count as the memory of this process.

    Raises:
        UserError: when it cannot be opened.
    """
    import pyarrow as pa

    if is_url(file):
        with _opened(file, sequential=False) as raw, pa.PythonFile(raw, mode="r") as source:
            yield source
    else:
        with _local_errors(file):
            source = pa.OSFile(str(local_path(file)))
        with source:
            yield source


@contextmanager
def open_raw(file: str) -> Iterator[io.BufferedReader]:
    """Opens a local file or URL for reading its bytes as they are, from front to back.

    Raises:
        UserError: when it cannot be opened.
    """
    with _opened(file, sequential=True) as raw:
        yield raw


@contextmanager
def _opened(file: str, *, sequential: bool) -> Iterator[io.BufferedReader]:
    if is_url(file):
        place = remote_place(file)
        with refusals(None, place), opened(place, sequential=sequential) as raw:
            yield raw
        return
    with _local_errors(file):
        raw = open(local_path(file), "rb")  # noqa: SIM115 (closed below)
    with raw:
        yield raw


@contextmanager
def _local_errors(file: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}.") from None


class _Counted:
    """A file of which is known how much was read."""

    def __init__(self, raw: io.BufferedReader):
        self._raw = raw
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self.count += len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class _Reading(io.RawIOBase):
    """Reads of `source` that give all that is asked for, as far as there is, and then say what is wrong with the file.

    A source gives a little at a time; who gathers a long row would copy what it has over and over.
    """

    def __init__(self, source: Any, packed: "_Counted | None"):
        super().__init__()
        self._packed = packed
        self._unpacked = 0
        # A GzipFile's read() gathers as well, but loses what it has when it meets the cut.
        self._read = source.read1 if isinstance(source, gzip.GzipFile) else source.read
        self._failure: DamagedFileError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        filled = 0
        while filled < len(buffer) and self._failure is None:
            try:
                part = self._read(len(buffer) - filled)
            except StoreFailingError:
                raise
            except Exception as error:  # of the disk, of gzip, of pyarrow's Zstandard, of whichever remote store
                self._failure = _damaged(error)
            else:
                if not part:
                    break
                buffer[filled : filled + len(part)] = part
                filled += len(part)
                self._unpacked += len(part)
                if self._packed is not None and self._unpacked > max(BOMB_BYTES, BOMB_RATIO * self._packed.count):
                    self._failure = BombError(
                        f"it unpacks to more than {BOMB_RATIO} times its size, {self._unpacked:,} bytes so far, as "
                        "text does not: a decompression bomb. If it is meant, unpack it first"
                    )
        if self._failure is not None and not filled:
            raise self._failure
        return filled


def _damaged(error: Exception) -> DamagedFileError:
    if isinstance(error, EOFError) or "Truncated" in str(error):
        return DamagedFileError("the compressed file is cut short, and what is missing cannot be told. Copy it again")
    if isinstance(error, gzip.BadGzipFile | zlib.error):
        return DamagedFileError(f"the gzip file is damaged: {error}")
    return DamagedFileError(f"{type(error).__name__}: {shown_path(str(error)).rstrip('.')}")
