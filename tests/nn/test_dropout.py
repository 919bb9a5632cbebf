"""What is dropped follows from the key, the layer and the place in the row, however a batch is cut up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.nn.dropout import dropout, row_keys, split_key, token_keys

KEY = jax.random.key(0)
ROWS, LENGTH, FEATURES = 6, 8, 16


def mask(keys: jax.Array, rows: int = ROWS, length: int = LENGTH) -> np.ndarray:
    """What is kept, `[rows, length, features]`."""
    x = jnp.ones((rows * length, FEATURES))
    return np.asarray(dropout(x, 0.5, keys)).reshape(rows, length, FEATURES) > 0


def test_the_rest_is_scaled_so_that_the_mean_stays() -> None:
    found = np.asarray(dropout(jnp.full((1000, 50), 3.0), 0.2, KEY))
    assert set(np.unique(found)) == {np.float32(0.0), np.float32(3.0) / np.float32(0.8)}
    assert np.mean(found) == pytest.approx(3.0, rel=0.01)


def test_without_a_key_or_a_rate_nothing_is_dropped() -> None:
    x = jnp.ones((4, 4))
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, KEY) is x


def test_no_two_rows_places_or_features_are_dropped_alike() -> None:
    whole = mask(row_keys(KEY, ROWS))
    for axis in range(3):
        slices = np.moveaxis(whole, axis, 0)
        assert len({part.tobytes() for part in slices}) == len(slices)


def test_a_rows_mask_is_its_own_in_any_part_of_the_batch_and_at_any_length() -> None:
    keys = row_keys(KEY, ROWS)
    whole = mask(keys)
    assert np.array_equal(mask(keys[1::2], rows=3), whole[1::2])
    assert np.array_equal(mask(row_keys(KEY, 2), rows=2), whole[:2])
    assert np.array_equal(mask(keys, length=LENGTH + 5)[:, :LENGTH], whole)


def test_keys_are_split_row_by_row() -> None:
    keys = row_keys(KEY, ROWS)
    for count in (2, 5):
        layers = split_key(keys, count)
        assert layers.shape == (count, ROWS)
        assert np.array_equal(jax.random.key_data(layers[:, 3]), jax.random.key_data(jax.random.split(keys[3], count)))
    assert split_key(KEY, 3).shape == (3,)
    masks = [mask(layer) for layer in split_key(keys, 4)]
    assert len({one.tobytes() for one in masks}) == 4


def test_a_tokens_key_does_not_depend_on_the_length_of_the_row() -> None:
    keys = row_keys(KEY, 2)
    short, long = (jax.random.key_data(token_keys(keys, length)).reshape(2, length, -1) for length in (3, 5))
    assert np.array_equal(short, long[:, :3])
    assert len({np.asarray(data).tobytes() for data in long.reshape(10, -1)}) == 10


def test_keys_of_rows_are_left_as_they_are() -> None:
    keys = row_keys(KEY, ROWS)
    assert row_keys(keys, ROWS) is keys
