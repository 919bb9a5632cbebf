"""A file on a store as an open file. What fails on the way is asked for again, so that a reader sees bytes alone."""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lodos.places.objects import version
from lodos.places.place import shown_path
from lodos.places.ranges import KeptRanges, RangedFile
from lodos.places.store import StoreError, ask, retried

if TYPE_CHECKING:
    from upath import UPath

_BUFFER = 2**20
_KEPT = 32 * 2**20
"""Bytes of what was read last that are kept."""


@contextmanager
def opened(place: "UPath", *, sequential: bool) -> Iterator[io.BufferedReader]:
    """The file at `place`, to be read from front to back or, without `sequential`, here and there.

    Raises:
        OSError: those of `ask`, from the reads too; and at the end, when the file was another one by then.
        StoreFailingError: when the store fails.
    """
    info = ask(place, "info")
    # Many a web server can only be read from front to back, and archives are quicker so.
    in_ranges = info.get("size") is not None and not (sequential and (_is_web(place) or not place.fs.async_impl))
    raw = _Ranges(place, info["size"]) if in_ranges else _Stream(place, info)
    with raw:
        yield io.BufferedReader(raw, _BUFFER)
        if in_ranges:
            check_same(place, info)


def check_same(place: "UPath", info: dict[str, Any]) -> None:
    """
    Raises:
        StoreError: when the store says something else of the file by now than `info`.
    """
    if version(ask(place, "info")) != version(info):
        raise StoreError(errno.EIO, f"{shown_path(str(place))}: was changed while it was read. Read it again.")


class _Ranges(io.RawIOBase):
    """Reads by ranges."""

    def __init__(self, place: "UPath", size: int):
        super().__init__()
        self._file = RangedFile(place, size, KeptRanges(_KEPT))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self._place + len(buffer), self._file.size)
        if end <= self._place:
            return 0
        data = self._file.read(self._place, end)
        buffer[: len(data)] = data
        self._place = end
        return len(data)


class _Stream(io.RawIOBase):
    """Reads from front to back; where that breaks off, it is opened anew and what was read is passed over."""

    def __init__(self, place: "UPath", info: dict[str, Any]):
        super().__init__()
        self._of = place
        self._info = info
        self._file: Any = None
        self._place = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = retried(str(self._of), lambda: self._next(len(buffer)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._let_go()
        super().close()

    def _next(self, size: int) -> bytes:
        try:
            self._file = self._file or self._opened()
            data = self._file.read(size)
            if not data and self._place < (self._info.get("size") or 0) and not _is_web(self._of):
                raise OSError(f"ended after {self._place} of {self._info['size']} bytes")
            return data
        except Exception:
            self._let_go()
            raise

    def _opened(self) -> Any:
        if self._place:
            check_same(self._of, self._info)
        options = {"block_size": 0} if _is_web(self._of) else {}
        file: Any = self._of.fs.open(self._of.path, "rb", **options)
        left = self._place
        while left:
            passed = len(file.read(min(left, _BUFFER)))
            if not passed:
                raise OSError(f"ended before the {self._place} bytes that it had")
            left -= passed
        return file

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _is_web(place: "UPath") -> bool:
    return place.protocol in ("http", "https")
