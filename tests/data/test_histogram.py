"""Bars: each row in exactly one, few of them, of round widths."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lodos.data.histogram import MOST_BARS, Bar, length_histogram


def test_by_hand() -> None:
    assert length_histogram(np.array([], np.int32)) == []
    assert length_histogram(np.array([7, 7])) == [Bar("7", 2)]
    assert length_histogram(np.array([3, 25, 28, 29, 71])) == [
        *(Bar("0-9", 1), Bar("10-19", 0), Bar("20-29", 3), Bar("30-39", 0), Bar("40-49", 0)),
        *(Bar("50-59", 0), Bar("60-69", 0), Bar("70-79", 1)),
    ]


def test_one_long_row_does_not_squeeze_the_others() -> None:
    bars = length_histogram(np.array([*range(100, 200), *range(100, 200), 100_000]))
    assert [bar.count for bar in bars[:-1]] == [20] * 10
    assert bars[-1] == Bar("200 or more", 1)


@given(lengths=st.lists(st.integers(1, 100_000), min_size=1, max_size=300))
def test_every_row_is_in_the_one_bar_that_holds_it(lengths: list[int]) -> None:
    bars = length_histogram(np.array(lengths))
    assert len(bars) <= MOST_BARS
    for bar in bars:
        first, _, last = bar.label.replace(" or more", "-1000000").partition("-")
        assert bar.count == sum(int(first) <= length <= int(last or first) for length in lengths)
    assert sum(bar.count for bar in bars) == len(lengths)
