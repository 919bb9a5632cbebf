"""A split loses nothing and never changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodos.data.split import split
from lodos.errors import UserError


@given(n=st.integers(2, 200), seed=st.integers(0, 2**32), fraction=st.floats(0.001, 0.4))
def test_each_example_is_on_one_side_in_the_old_order(n: int, seed: int, fraction: float) -> None:
    for held in (fraction, n // 2, 0):
        train, held_out = split(range(n), held, seed)
        assert sorted(train + held_out) == list(range(n))
        assert (train, held_out) == (sorted(train), sorted(held_out))
        assert len(held_out) == (held if isinstance(held, int) else max(1, round(held * n)))


def test_the_split_never_changes() -> None:
    # Another version of the code that held out other rows would train on what a saved adapter is judged by.
    assert split(range(20), 5, seed=0)[1] == [4, 7, 9, 15, 18]
    assert split(range(20), 0.25, seed=0)[1] == split(range(20), 5, seed=0)[1]


def test_seeds_differ() -> None:
    assert len({tuple(split(range(100), 10, seed)[1]) for seed in range(20)}) == 20


@pytest.mark.parametrize("held_out", [-1, -0.5, 1.0, 1.5, True, float("nan")])
def test_what_is_neither_count_nor_fraction_is_refused(held_out: float) -> None:
    with pytest.raises(UserError, match="neither a count"):
        split(range(10), held_out, 0)


@pytest.mark.parametrize("held_out", [3, 4, 0.9])
def test_something_is_left_to_train_on(held_out: float) -> None:
    with pytest.raises(UserError, match="leaves none to train on"):
        split(range(3), held_out, 0)
