"""Attention as it is defined, with a whole matrix of scores; the only one that reads a key-value cache."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def plain_attention(
    q: Float[Array, "batch q heads head_size"],
    k: Float[Array, "batch k kv_heads head_size"],
    v: Float[Array, "batch k kv_heads head_size"],
    first: Int[Array, "batch q"],
    last: Int[Array, " q"] | None = None,
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> Float[Array, "batch q heads head_size"]:
    """`softmax(q k^T / sqrt(head_size)) v`, the softmax in float32. Head `h` reads key-value head `h // group`.

    Args:
        first: the first key that each query sees.
        last: the last; not before the first, for a query without a key has no attention. By default its own index.
        scale: of the scores in place of `1 / sqrt(head_size)`.
        soft_cap: scores are `soft_cap * tanh(scores / soft_cap)`.
    """
    batch, q_len, heads, head_size = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    # Queries of one group are rows of one matrix: plain batched products, which is what every backend does best.
    q = q.reshape(batch, q_len, kv_heads, group, head_size).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, group * q_len, head_size)
    k = k.transpose(0, 2, 3, 1)
    v = v.transpose(0, 2, 1, 3)
    key = jnp.arange(k.shape[-1])
    last = key if last is None else last
    visible = (key >= first[:, :, None]) & (key <= last[:, None])
    scores = jnp.matmul(q, k, preferred_element_type=jnp.float32) * (scale or head_size**-0.5)
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    scores = scores.reshape(batch, kv_heads, group, q_len, -1)
    scores = jnp.where(visible[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype).reshape(batch, kv_heads, group * q_len, -1)
    out = jnp.matmul(weights, v).reshape(batch, kv_heads, group, q_len, head_size)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, q_len, heads, head_size)
