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


class RangedFile:
    """Reads of one file.

    Args:
        size: of the file, which is taken as one that does not change.
    """

    def __init__(self, place: "UPath", size: int):
        self.place = place
        self.size = size
        self._end = 0
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`.

        Raises:
            OSError: when the store fails, or the file ends before.
        """
        if not 0 <= start <= end <= self.size:
            raise OSError(f"{self.place}: has {self.size} bytes, and was asked for those from {start} to {end}.")
        for (first, last), data in self._kept.items():
            if first <= start and end <= last:
                self._kept.move_to_end((first, last))
                return data[start - first : end - first]
        ahead = BLOCK if self._end <= start <= self._end + BLOCK else NEAR
        last = min(max(end, start + ahead), self.size)
        data = self._fetch(start, last)
        self._keep(start, last, data)
        self._end = last
        return data[: end - start]

    def _fetch(self, start: int, end: int) -> bytes:
        starts = range(start, end, PART)
        if len(starts) <= 1:
            return read_object(self.place, start, end) if end > start else b""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return b"".join(pool.map(lambda first: read_object(self.place, first, min(first + PART, end)), starts))

    def _keep(self, start: int, end: int, data: bytes) -> None:
        if len(data) > KEPT:
            return
        self._kept[start, end] = data
        while sum(map(len, self._kept.values())) > KEPT:
            self._kept.popitem(last=False)
