"""Where segments start, by going through them token by token."""

import jax.numpy as jnp
import numpy as np
import pytest

from attention_reference import first_of, make_segments, starts_of
from lodos.nn.attention.segments import first_visible, segment_starts

SEGMENTS = make_segments(12, [3, 1, 4], [12], [], [1, 1, 1, 9])


def test_a_token_starts_where_its_segment_does_and_filler_at_itself() -> None:
    starts = segment_starts(jnp.asarray(SEGMENTS))
    assert starts.dtype == jnp.int32
    assert starts[0].tolist() == [0, 0, 0, 3, 4, 4, 4, 4, 8, 9, 10, 11]
    assert np.array_equal(starts, starts_of(SEGMENTS))


def test_filler_may_stand_before_and_between_segments() -> None:
    segments = np.asarray([[0, 0, 1, 1, 0, 2, 2, 0]])
    assert segment_starts(jnp.asarray(segments)).tolist() == [[0, 1, 2, 2, 4, 5, 5, 7]]


def test_equal_ids_apart_are_two_segments() -> None:
    assert segment_starts(jnp.asarray([[1, 1, 2, 1, 1]])).tolist() == [[0, 0, 2, 3, 3]]


@pytest.mark.parametrize("window", [None, 1, 3, 100, 2**30])
def test_a_window_hides_all_but_the_last_tokens(window: int | None) -> None:
    starts, index = segment_starts(jnp.asarray(SEGMENTS)), jnp.arange(12, dtype=jnp.int32)
    for given in (window, None if window is None else jnp.asarray(window, jnp.int32)):
        assert np.array_equal(first_visible(starts, index, given), first_of(SEGMENTS, window))
