"""Attention is the formula in float64, and nobody sees what the mask hides."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.models.config import DecoderConfig
from lodos.models.decoder import LmHeadModel
from lodos.nn import attention
from lodos.nn.rotary import RotaryConfig

attend = jax.jit(attention.attend)

BATCH, LENGTH, HEAD_SIZE = 2, 10, 6
HEADS = [(4, 4), (6, 2), (3, 1)]

# Two examples and filler in the first row, three examples in the second.
SEGMENTS = np.asarray([[1, 1, 1, 1, 2, 2, 2, 0, 0, 0], [1, 1, 2, 2, 2, 2, 2, 3, 3, 3]], np.int32)
POSITIONS = np.asarray([[0, 1, 2, 3, 0, 1, 2, 0, 0, 0], [0, 1, 0, 1, 2, 3, 4, 0, 1, 2]], np.int32)


def visible(segments: np.ndarray = SEGMENTS, window: int | None = None) -> np.ndarray:
    """Who sees whom: not later, of the same segment, less than `window` tokens earlier."""
    distance = np.arange(segments.shape[1])[:, None] - np.arange(segments.shape[1])
    near = (distance >= 0) & (distance < (window or segments.shape[1]))
    return near & (segments[:, :, None] == segments[:, None, :])


def make_qkv(heads: int, kv_heads: int, seed: int = 0, scale: float = 1.0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    sizes = (heads, kv_heads, kv_heads)
    return tuple((scale * rng.normal(size=(BATCH, LENGTH, n, HEAD_SIZE))).astype(np.float32) for n in sizes)


def in_float64(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Query by query and head by head, over the keys that it sees."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    group = q.shape[2] // k.shape[2]
    for row, query, head in np.ndindex(*q.shape[:3]):
        keys = np.flatnonzero(mask[row, query])
        scores = k[row, keys, head // group] @ q[row, query, head] / np.sqrt(HEAD_SIZE)
        weights = np.exp(scores - scores.max())
        out[row, query, head] = weights @ v[row, keys, head // group] / weights.sum()
    return out


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_the_output_is_the_formula(heads: int, kv_heads: int, window: int | None) -> None:
    q, k, v = make_qkv(heads, kv_heads)
    mask = visible(window=window)
    np.testing.assert_allclose(attend(*map(jnp.asarray, (q, k, v, mask))), in_float64(q, k, v, mask), atol=2e-6)


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_gradients_are_those_of_torch_in_float64(heads: int, kv_heads: int) -> None:
    torch = pytest.importorskip("torch")
    arrays, mask = make_qkv(heads, kv_heads), visible(window=4)
    seen = np.random.default_rng(1).normal(size=(BATCH, LENGTH, heads, HEAD_SIZE))
    tensors = [torch.tensor(x.astype(np.float64), requires_grad=True) for x in arrays]
    q, k, v = (x.transpose(1, 2) for x in tensors)
    attended = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.tensor(mask)[:, None], enable_gqa=True
    )
    (attended.transpose(1, 2) * torch.tensor(seen)).sum().backward()

    def loss(q: Any, k: Any, v: Any) -> Any:
        return jnp.sum(attend(q, k, v, jnp.asarray(mask)) * seen)

    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*map(jnp.asarray, arrays))
    for found, tensor in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(found, tensor.grad.numpy(), rtol=0, atol=1e-5)


def test_more_keys_than_queries_are_seen_as_the_mask_says() -> None:
    q, k, v = make_qkv(4, 2)
    mask = visible(np.ones_like(SEGMENTS))
    whole, last = (attend(*map(jnp.asarray, (q[:, s], k, v, mask[:, s]))) for s in (slice(None), slice(-3, None)))
    np.testing.assert_allclose(last, whole[:, -3:], atol=1e-6)


@pytest.mark.parametrize("scale", [30.0, 1e8, 1e15])
def test_huge_scores_stay_finite_and_the_largest_wins(scale: float) -> None:
    q, k, v = make_qkv(4, 2, scale=scale)
    v /= np.float32(scale)
    mask = visible()
    out = attend(*map(jnp.asarray, (q, k, v, mask)))
    np.testing.assert_allclose(out, in_float64(q, k, v, mask), atol=1e-3)


def test_the_softmax_of_bfloat16_is_in_float32() -> None:
    """Equal scores over many keys: weights summed in bfloat16 would stop growing at 256."""
    keys = 1000
    q, k = jnp.ones((1, 1, 1, 2), jnp.bfloat16), jnp.ones((1, keys, 1, 2), jnp.bfloat16)
    v = jnp.asarray(np.random.default_rng(0).normal(1, 0.5, (1, keys, 1, 2)), jnp.bfloat16)
    out = attend(q, k, v, jnp.ones((1, 1, keys), bool))
    assert out.dtype == jnp.bfloat16
    mean = np.asarray(v, np.float32).mean((0, 1, 2))
    np.testing.assert_allclose(np.asarray(out, np.float32)[0, 0, 0], mean, rtol=0.01)


def test_what_the_mask_hides_changes_nothing_bit_for_bit() -> None:
    q, k, v = make_qkv(4, 2)
    mask = visible(window=3)
    out = np.asarray(attend(*map(jnp.asarray, (q, k, v, mask))))
    for row, key in np.ndindex(BATCH, LENGTH):
        k2, v2 = k.copy(), v.copy()
        k2[row, key], v2[row, key] = 100.0, -100.0
        changed = np.asarray(attend(*map(jnp.asarray, (q, k2, v2, mask))))
        same = (changed == out).all(axis=(2, 3))
        assert np.all(same[~mask[..., key] | (np.arange(BATCH) != row)[:, None]])
        assert not np.any(same[row, mask[row, :, key]])


# The mask of a whole model, which it makes from segments, windows and order.


@pytest.fixture(scope="module", params=[None, 3], ids=["no window", "window"])
def window(request: pytest.FixtureRequest) -> int | None:
    return request.param


@pytest.fixture(scope="module")
def model(window: int | None) -> LmHeadModel:
    config = DecoderConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        rotary=RotaryConfig(rotary_dim=4, max_position_embeddings=64),
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
