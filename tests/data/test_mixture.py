"""What an epoch of several data sets is made of."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodos.data.examples import TokenizedExample
from lodos.data.mixture import Selection, lengths_of, mix, repeats
from lodos.errors import UserError

Make = Callable[[Sequence[int]], list[TokenizedExample]]


@pytest.mark.parametrize("weight", [1, 1.0, 0.2, 7])
def test_equal_weights_are_plain_concatenation(weight: float) -> None:
    assert mix([3, 0, 2], [weight] * 3, seed=5).tolist() == [0, 1, 2, 3, 4]


def test_by_hand() -> None:
    assert mix([2, 3], [1, 2], seed=0).tolist() == [0, 1, 2, 2, 3, 3, 4, 4]
    assert mix([2, 3], [0.5, 0.25], seed=0).tolist() == [0, 0, 1, 1, 2, 3, 4]
    halves = mix([1, 4], [2, 5], seed=0)  # 2.5 times each of the second set's four
    assert np.bincount(halves)[0] == 1
    assert sorted(np.bincount(halves)[1:]) == [2, 2, 3, 3]


@given(
    sets=st.lists(st.tuples(st.integers(0, 40), st.floats(0.1, 10)), min_size=1, max_size=4),
    seed=st.integers(0, 2**40),
)
def test_nothing_is_left_out_and_the_shares_are_those_of_the_weights(sets: list[tuple[int, float]], seed: int) -> None:
    counts, weights = zip(*sets, strict=True)
    epoch = mix(counts, weights, seed)
    occurrences = np.bincount(epoch, minlength=sum(counts))
    assert (occurrences >= 1).all()
    for of_set, times, count in zip(
        np.split(occurrences, np.cumsum(counts)[:-1]), repeats(weights), counts, strict=True
    ):
        assert abs(of_set.sum() - times * count) <= 0.5 + 1e-9
        assert count == 0 or of_set.max() - of_set.min() <= 1


def test_the_draw_never_changes_and_goes_by_the_seed() -> None:
    # Another version of the code that drew others would resume a run on other data.
    assert mix([1, 10], [1, 1.3], seed=0).tolist() == [0, 1, 2, 3, 3, 4, 5, 5, 6, 7, 8, 9, 9, 10]
    assert len({tuple(mix([1, 10], [1, 1.3], seed)) for seed in range(20)}) > 10


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_weights_that_are_none(weight: float) -> None:
    with pytest.raises(UserError, match=r"weight: .* must be a number above 0"):
        mix([1, 1], [1, weight], seed=0)


def test_a_selection_reads_from_all_its_parts(make_examples: Make) -> None:
    every = make_examples([3, 4, 5, 6])
    chosen = Selection([every[:1], [], every[1:]], np.array([3, 0, 1, 1]))
    assert [example.number for example in chosen] == [4, 1, 2, 2]
    assert [example.number for example in chosen[1:3]] == [1, 2]
    assert chosen[-1].number == 2
    assert chosen.lengths.tolist() == [6, 3, 4, 4]
    with pytest.raises(IndexError):
        chosen[4]


def test_a_selection_takes_everything_by_default(make_examples: Make) -> None:
    every = make_examples([3, 4, 5])
    assert list(Selection([every[:2], every[2:]])) == every
    assert list(Selection([])) == []


def test_lengths_are_asked_for_and_not_counted(make_examples: Make) -> None:
    class Closed(list[TokenizedExample]):
        lengths = np.array([7, 8], np.int32)

        def __getitem__(self, index: object) -> TokenizedExample:  # pyright: ignore[reportIncompatibleMethodOverride]
            raise AssertionError("an example was read")

    closed = Closed(make_examples([7, 8]))
    assert Selection([closed], np.array([1])).lengths.tolist() == [8]
    assert lengths_of(make_examples([3, 4])).tolist() == [3, 4]
