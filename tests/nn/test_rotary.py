"""Rotary tables of packed rows; the formulas themselves are compared with transformers in tests/models."""

import jax.numpy as jnp
import numpy as np
import pytest

from lodos.nn.rotary import RotaryConfig, rotary_tables

LENGTH_DEPENDENT = {
    "dynamic": RotaryConfig(rotary_dim=8, max_position_embeddings=8, rope_type="dynamic", factor=2.0),
    "longrope": RotaryConfig(
        rotary_dim=8,
        max_position_embeddings=32,
        rope_type="longrope",
        original_max_position_embeddings=8,
        short_factor=(1.0, 1.1, 1.2, 1.3),
        long_factor=(2.0, 3.0, 4.0, 5.0),
    ),
}


@pytest.mark.parametrize("rope_type", LENGTH_DEPENDENT)
def test_an_example_turns_by_its_own_length_whatever_shares_its_row(rope_type: str) -> None:
    config = LENGTH_DEPENDENT[rope_type]
    alone = rotary_tables(jnp.arange(4)[None], jnp.ones((1, 4), jnp.int32), config)
    positions = jnp.concatenate([jnp.arange(16), jnp.arange(4), jnp.zeros(3, jnp.int32)])[None]
    segments = jnp.asarray([1] * 16 + [2] * 4 + [0] * 3)[None]
    packed = rotary_tables(positions, segments, config)
    for ours, theirs in zip(packed, alone, strict=True):
        np.testing.assert_array_equal(ours[:, 16:20], theirs)
    long = rotary_tables(jnp.arange(16)[None], jnp.ones((1, 16), jnp.int32), config)
    assert not np.allclose(long[0][:, :4], alone[0])  # the length does matter


def test_tables_tell_positions_apart_that_bfloat16_does_not() -> None:
    config = RotaryConfig(rotary_dim=8, max_position_embeddings=512)
    cos, sin = rotary_tables(jnp.asarray([[256, 257]]), jnp.ones((1, 2), jnp.int32), config)
    assert cos.dtype == sin.dtype == jnp.float32
    expected = np.cos(np.asarray([256.0, 257.0])[:, None] * 10000.0 ** (-np.arange(0, 8, 2) / 8))
    np.testing.assert_allclose(cos[0], expected, atol=1e-4)
