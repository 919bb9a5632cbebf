"""How long rows are: a few bars of round width, whatever the lengths."""

import dataclasses
import itertools

import numpy as np

MOST_BARS = 15
USUAL = 99.0
"""The percentile up to which bars go; what is longer has one bar for all, or it would squeeze the others together."""


@dataclasses.dataclass(frozen=True)
class Bar:
    """How many rows have a length of `label`."""

    label: str
    """`50-99`, or `750 or more`."""
    count: int


def length_histogram(lengths: np.ndarray) -> list[Bar]:
    """Bars from the shortest to the longest; none for no lengths.

    Args:
        lengths: int [rows].
    """
    if not len(lengths):
        return []
    shortest, usual = int(lengths.min()), int(np.ceil(np.percentile(lengths, USUAL)))
    width = next(width for width in _round_numbers() if usual // width - shortest // width < MOST_BARS - 1)
    places = lengths // width - shortest // width
    last = usual // width - shortest // width
    counts = np.bincount(np.minimum(places, last + 1)).tolist()
    bars = []
    for place, count in enumerate(counts, shortest // width):
        is_open = place - shortest // width == last + 1
        last_of_bar = place * width + width - 1
        label = f"{place * width} or more" if is_open else _label(place * width, last_of_bar)
        bars.append(Bar(label, count))
    return bars


def _round_numbers() -> "itertools.chain[int]":
    """1, 2, 5, 10, 20, 50, ..."""
    return itertools.chain.from_iterable((10**k, 2 * 10**k, 5 * 10**k) for k in itertools.count())


def _label(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
