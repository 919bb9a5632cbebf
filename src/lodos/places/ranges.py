"""A file on a store, read here and there without fetching it.

A request costs some tens of milliseconds whatever it brings. So where one read follows another, what comes next is
brought too, and large ones go as several requests at once.
"""

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lodos.places.objects import read_object

if TYPE_CHECKING:
    from upath import UPath

BLOCK = 8 * 2**20
"""Bytes of the smallest request that goes on where the last one ended."""
NEAR = 128 * 2**10
"""Bytes of the smallest request elsewhere."""
PART = 32 * 2**20
"""Bytes of the largest."""
KEPT = 256 * 2**20
"""Bytes of what was read last that are kept: devices ask one after another for parts of the same rows."""
AT_ONCE = 4


class KeptRanges:
    """What was read last of the files of a folder.

    Args:
        limit: bytes of all together; `KEPT` by default.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = KEPT if limit is None else limit
        self._ranges: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._bytes = 0

    def find(self, file: str, start: int, end: int) -> bytes | None:
        """The bytes from `start` to before `end`, where a kept range has all of them."""
        for (of, first, last), data in self._ranges.items():
            if of == file and first <= start and end <= last:
                self._ranges.move_to_end((of, first, last))
                return data[start - first : end - first]
        return None

    def keep(self, file: str, start: int, data: bytes) -> None:
        """Keeps them for now; what was not asked for for longest goes."""
        if len(data) > self._limit:
            return
        self._bytes += len(data) - len(self._ranges.pop((file, start, start + len(data)), b""))
        self._ranges[file, start, start + len(data)] = data
        while self._bytes > self._limit:
            self._bytes -= len(self._ranges.popitem(last=False)[1])


class RangedFile:
    """Reads of one file.

    Args:
        size: of the file, which is taken as one that does not change.
        kept: what was read of it, and of others.
    """

    def __init__(self, place: "UPath", size: int, kept: KeptRanges):
        self.place = place
        self.size = size
        self._kept = kept
        self._end = 0

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`.

        Raises:
            OSError: when the store fails, or the file ends before.
        """
        if not 0 <= start <= end <= self.size:
            raise OSError(f"{self.place}: has {self.size} bytes, and was asked for those from {start} to {end}.")
        if (found := self._kept.find(str(self.place), start, end)) is not None:
            return found
        ahead = BLOCK if self._end <= start <= self._end + BLOCK else NEAR
        last = min(max(end, start + ahead), self.size)
        data = self._fetch(start, last)
        self._kept.keep(str(self.place), start, data)
        self._end = last
        return data[: end - start]

    def _fetch(self, start: int, end: int) -> bytes:
        starts = range(start, end, PART)
        if len(starts) <= 1:
            return read_object(self.place, start, end) if end > start else b""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return b"".join(pool.map(lambda first: read_object(self.place, first, min(first + PART, end)), starts))
