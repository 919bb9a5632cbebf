"""What a model makes of segments, windows and order: no token's logits know of what it does not see."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.models.decoder import LmHeadModel
from tiny_training import tiny_config

BATCH, LENGTH = 2, 10

# Two examples and filler in the first row, three examples in the second.
SEGMENTS = np.asarray([[1, 1, 1, 1, 2, 2, 2, 0, 0, 0], [1, 1, 2, 2, 2, 2, 2, 3, 3, 3]], np.int32)
POSITIONS = np.asarray([[0, 1, 2, 3, 0, 1, 2, 0, 0, 0], [0, 1, 0, 1, 2, 3, 4, 0, 1, 2]], np.int32)


@pytest.fixture(scope="module", params=[None, 3], ids=["no window", "window"])
def window(request: pytest.FixtureRequest) -> int | None:
    return request.param


@pytest.fixture(scope="module")
def model(window: int | None) -> LmHeadModel:
    config = tiny_config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        head_dim=4,
        sliding_windows=None if window is None else (window, None),
    )
    # Large weights, for attention that matters.
    return jax.tree.map(lambda x: 10 * x, LmHeadModel.init(config, key=jax.random.key(0)))


@pytest.fixture
def row_tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 32, SEGMENTS.shape)


@jax.jit
def jitted(model: Any, tokens: Any, segments: Any, positions: Any) -> Any:
    return model(tokens, segment_ids=segments, positions=positions)


def logits(model: Any, tokens: Any, segments: np.ndarray = SEGMENTS, positions: np.ndarray = POSITIONS) -> Any:
    return np.asarray(jitted(model, tokens, segments, positions))


@pytest.mark.parametrize("segment", [0, 1, 2, 3])
def test_a_segments_tokens_change_no_other_segments_logits(
    segment: int, model: LmHeadModel, row_tokens: np.ndarray
) -> None:
    changed = np.where(segment == SEGMENTS, (row_tokens + 7) % 32, row_tokens)
    before, after = logits(model, row_tokens), logits(model, changed)
    assert np.array_equal(after[segment != SEGMENTS], before[segment != SEGMENTS])
    assert not np.any((after == before).all(axis=-1)[segment == SEGMENTS])


def test_packed_examples_have_the_logits_of_each_alone(model: LmHeadModel, row_tokens: np.ndarray) -> None:
    packed = logits(model, row_tokens)
    for row in range(BATCH):
        for segment in set(SEGMENTS[row].tolist()) - {0}:
            own = SEGMENTS[row] == segment
            # The example at the start of both rows, and nothing after it but filler.
            tokens, segments = np.zeros_like(row_tokens), np.zeros_like(SEGMENTS)
            tokens[:, : own.sum()], segments[:, : own.sum()] = row_tokens[row, own], 1
            positions = np.arange(LENGTH, dtype=np.int32) * segments
            alone = logits(model, tokens, segments, positions)[0, : own.sum()]
            np.testing.assert_allclose(packed[row, own], alone, rtol=0, atol=1e-4 * np.abs(alone).max())


def test_later_tokens_change_no_earlier_logits(model: LmHeadModel, row_tokens: np.ndarray) -> None:
    ones = np.ones_like(SEGMENTS)
    positions = np.arange(LENGTH, dtype=np.int32) * ones
    changed = row_tokens.copy()
    changed[:, 6:] = (changed[:, 6:] + 5) % 32
    before, after = (logits(model, tokens, ones, positions) for tokens in (row_tokens, changed))
    assert np.array_equal(after[:, :6], before[:, :6])
    assert not np.any((after == before).all(axis=-1)[:, 6:])


def test_filler_gives_no_nan_in_values_or_gradients(model: LmHeadModel, row_tokens: np.ndarray) -> None:
    model = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model)
    segments = SEGMENTS.copy()
    segments[1] = 0  # a row of nothing but filler

    def loss(model: LmHeadModel) -> Any:
        out = model(jnp.asarray(row_tokens), segment_ids=jnp.asarray(segments), positions=jnp.asarray(POSITIONS))
        return jnp.sum(jnp.square(out.astype(jnp.float32)) * (segments > 0)[..., None])

    value, gradients = jax.jit(jax.value_and_grad(loss))(model)
    assert np.all(np.isfinite(logits(model, row_tokens, segments).astype(np.float32)))
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(np.asarray(leaf, np.float32))) for leaf in jax.tree.leaves(gradients))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))
