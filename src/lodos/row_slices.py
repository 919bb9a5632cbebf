"""A tensor some rows at a time: whoever reads, sums or sends it needs room for a few MiB, however large it is."""

import math
from collections.abc import Iterator

_BYTES = 4 * 2**20


def row_slices(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[slice, ...]]:
    """Slices of rows, of 4 MiB or one row, that together are the whole tensor; of a scalar, one that is all of it.

    Args:
        itemsize: the bytes of an element.
    """
    if not shape:
        yield ()
        return
    row_bytes = math.prod(shape[1:]) * itemsize
    if not row_bytes:  # a file may say of any number of such rows that it has them
        yield (slice(0, shape[0]),)
        return
    rows = max(1, _BYTES // row_bytes)
    for start in range(0, shape[0], rows):
        yield (slice(start, min(start + rows, shape[0])),)
