"""Exact attention in blocks, in plain JAX: memory linear in the length, work only where somebody sees something.

The queries of a row are cut into blocks of `BLOCK`. A block sees one run of keys: from the first key that its first
query sees to its own end. So each block is one small dense attention,

    scores = q_block k_run^T        [group * BLOCK, run]

and a packed row costs what its segments cost. How long the run is, only the data says, but a compiled program has
static shapes: so runs are rounded up to one of a few lengths (1, 2, 3, 4, 6, 8, 12, ... blocks), the blocks are sorted
by theirs, and for each length one loop goes over the blocks that have it. No block is computed for a run more than
half as long again as its own.

The backward pass computes the probabilities anew from the log of the softmax's denominator (Dao et al. 2022,
arXiv:2205.14135), so that nothing quadratic is kept.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

BLOCK = 128
"""Queries of a block, and the unit of key runs."""
_SMALLEST_BLOCK = 16
OUT_NAME = "attention_out"
"""What gradient checkpointing keeps of attention: its output and the denominators."""

_MASKED = float(jnp.finfo(jnp.float32).min)
"""Below any score, that no huge negative one falls behind what its query must not see."""


def blockwise_attention(
    q: Float[Array, "batch seq heads head_size"],
    k: Float[Array, "batch seq kv_heads head_size"],
    v: Float[Array, "batch seq kv_heads head_size"],
    first: Int[Array, "batch seq"],
    offset: int | Int[Array, ""] = 0,
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> Float[Array, "batch seq heads head_size"]:
    """`softmax(q k^T / sqrt(head_size)) v` of each token over the keys from `first` to itself, softmax in float32.

    Args:
        first: the first key that each query sees, at most its own index.
        offset: the index of the first query among the keys, of which there may be more than queries.
        scale: of the scores in place of `1 / sqrt(head_size)`.
        soft_cap: scores are `soft_cap * tanh(scores / soft_cap)`.
    """
    seq, keys = q.shape[1], k.shape[1]
    block = min(BLOCK, -(-seq // _SMALLEST_BLOCK) * _SMALLEST_BLOCK)
    padding = -seq % block
    if padding:
        q = jnp.pad(q, ((0, 0), (0, padding), (0, 0), (0, 0)))
        own = offset + jnp.arange(seq, seq + padding, dtype=first.dtype)
        first = jnp.concatenate([first, jnp.broadcast_to(own, (first.shape[0], padding))], axis=1)
    if padding := -keys % block:
        k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (k, v))
    scores = _Scores(scale or q.shape[3] ** -0.5, soft_cap)
    attended: Array = _attention(q, k, v, first, jnp.asarray(offset, first.dtype), block, scores)
    return attended[:, :seq]


class _Scores(NamedTuple):
    """How scores are made of products."""

    scale: float
    soft_cap: float | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attention(q: Array, k: Array, v: Array, first: Array, offset: Array, block: int, scores: _Scores) -> Array:
    return _forward(q, k, v, first, offset, block, scores)[0]


class _Blocks(NamedTuple):
    """The blocks of all rows, numbered row by row, sorted by the length of their run of keys."""

    sizes: tuple[int, ...]
    """The run lengths there are, in blocks, ascending."""
    order: Int[Array, " blocks"]
    bounds: Int[Array, " sizes+1"]
    """`order[bounds[s] : bounds[s + 1]]` are the blocks whose run takes `sizes[s]`."""
    per_row: int
    """Blocks of a row."""
    block: int
    """Queries of a block."""
    offset: Int[Array, ""]
    """The index of a row's first query among its keys."""


class _Run(NamedTuple):
    """One block's queries and the keys it sees."""

    number: Int[Array, ""]
    row: Int[Array, ""]
    start: Int[Array, ""]
    """Index of the first key."""
    q: Float[Array, "kv_heads group*block head_size"]
    k: Float[Array, "kv_heads run head_size"]
    v: Float[Array, "kv_heads run head_size"]
    scores: Float[Array, "kv_heads group*block run"]
    """Scaled, float32, masked."""
    slopes: Float[Array, "kv_heads group*block run"] | None
    """What a soft cap multiplies the gradients of scores by."""


def _forward(
    q: Array, k: Array, v: Array, first: Array, offset: Array, block: int, scores: _Scores
) -> tuple[Array, Array]:
    """The output and, for each query, the log of the softmax's denominator `[blocks, kv_heads, group * block]`."""
    batch, _, heads, _ = q.shape
    kv_heads = k.shape[2]
    blocks = _sorted_blocks(first, offset, k.shape[1], block)
    q_blocks, k, v = _to_blocks(q, kv_heads, block), _by_head(k), _by_head(v)

    def attend(size: int, t: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        out, log_sums = carry
        run = _run(blocks, size, t, q_blocks, k, v, first, scores)
        largest = run.scores.max(axis=-1)
        # One pass makes the exponentials, another adds them up: fused, the sum would not be vectorised on CPU.
        weights = jax.lax.optimization_barrier(jnp.exp(run.scores - largest[..., None]))
        denominator = weights.sum(axis=-1)
        attended = _dot(weights.astype(v.dtype), run.v, 2, 1) / denominator[..., None]
        return (
            _put(out, run.number, attended.astype(out.dtype)),
            _put(log_sums, run.number, largest + jnp.log(denominator)),
        )

    carry = (jnp.zeros_like(q_blocks), jnp.zeros(q_blocks.shape[:-1], jnp.float32))
    out, log_sums = _for_each_block(blocks, attend, carry)
    return _from_blocks(out, batch, heads, block), log_sums


def _attention_fwd(
    q: Array, k: Array, v: Array, first: Array, offset: Array, block: int, scores: _Scores
) -> tuple[Array, tuple[Array, ...]]:
    out, log_sums = _forward(q, k, v, first, offset, block, scores)
    out, log_sums = checkpoint_name(out, OUT_NAME), checkpoint_name(log_sums, OUT_NAME)
    return out, (q, k, v, first, offset, out, log_sums)


def _attention_bwd(
    block: int, scores: _Scores, residuals: tuple[Array, ...], d_out: Array
) -> tuple[Array, Array, Array, None, None]:
    q, k, v, first, offset, out, log_sums = residuals
    batch, _, heads, head_size = q.shape
    kv_heads = k.shape[2]
    blocks = _sorted_blocks(first, offset, k.shape[1], block)
    # sum_j p_j dp_j of each query, which the softmax's derivative subtracts, is its out . d_out.
    inner = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1, keepdims=True)
    inner = _to_blocks(inner, kv_heads, block)[..., 0]
    q_blocks, d_out_blocks = _to_blocks(q, kv_heads, block), _to_blocks(d_out, kv_heads, block)
    k, v = _by_head(k), _by_head(v)

    def differentiate(size: int, t: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        dq, dk, dv = carry
        run = _run(blocks, size, t, q_blocks, k, v, first, scores)
        d_attended = d_out_blocks[run.number]
        weights = jnp.exp(run.scores - log_sums[run.number][..., None])
        d_weights = _dot(d_attended, run.v, 2, 2)
        d_scores = weights * (d_weights - inner[run.number][..., None]) * scores.scale
        if run.slopes is not None:
            d_scores = d_scores * run.slopes
        d_scores = d_scores.astype(q.dtype)
        weights = weights.astype(q.dtype)
        return (
            _put(dq, run.number, _dot(d_scores, run.k, 2, 1).astype(dq.dtype)),
            _add_run(dk, run, _dot(run.q, d_scores, 1, 1)),
            _add_run(dv, run, _dot(d_attended, weights, 1, 1)),
        )

    # Keys are seen from several blocks, whose shares add up in float32. Features come before keys: XLA's CPU backend
    # multiplies q^T d_scores twice as fast as d_scores^T q.
    zeros = jnp.zeros((batch, kv_heads, head_size, k.shape[2]), jnp.float32)
    dq, dk, dv = _for_each_block(blocks, differentiate, (jnp.zeros_like(q_blocks), zeros, zeros))
    dk, dv = (x.transpose(0, 3, 1, 2).astype(like.dtype) for x, like in ((dk, k), (dv, v)))
    return _from_blocks(dq, batch, heads, block), dk, dv, None, None


_attention.defvjp(_attention_fwd, _attention_bwd)


def _sorted_blocks(first: Int[Array, "batch seq"], offset: Array, keys: int, block: int) -> _Blocks:
    batch, seq = first.shape
    per_row, longest = seq // block, keys // block
    sizes = _run_sizes(longest)
    lowest = first.reshape(batch, per_row, block).min(axis=-1)
    ends = offset + (jnp.arange(per_row) + 1) * block
    # Filler at the end of the queries may lie beyond the last key.
    lengths = jnp.minimum(-((lowest - ends) // block), longest).reshape(-1)
    rank = jnp.searchsorted(jnp.asarray(sizes), lengths)
    order = jnp.argsort(rank)
    return _Blocks(sizes, order, jnp.searchsorted(rank[order], jnp.arange(len(sizes) + 1)), per_row, block, offset)


def _run_sizes(longest: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... below `longest`, and `longest`."""
    sizes = {longest, *(size for size in (1, 3) if size < longest)}
    for power in range(1, longest.bit_length()):
        sizes |= {size for size in (2**power, 3 * 2 ** (power - 1)) if size < longest}
    return tuple(sorted(sizes))


def _for_each_block(blocks: _Blocks, body: Callable[..., Any], carry: Any) -> Any:
    for rank, size in enumerate(blocks.sizes):
        bounds = blocks.bounds[rank], blocks.bounds[rank + 1]
        carry = jax.lax.fori_loop(*bounds, functools.partial(body, size), carry)
    return carry


def _run(
    blocks: _Blocks, size: int, t: Array, q_blocks: Array, k: Array, v: Array, first: Array, made: _Scores
) -> _Run:
    block = blocks.block
    number = blocks.order[t]
    row, column = number // blocks.per_row, number % blocks.per_row
    # A run rounded up begins earlier, as far as the row goes back; it may then end after the block.
    start = jnp.clip(blocks.offset + (column + 1 - size) * block, 0, k.shape[2] - size * block)
    shape = (1, k.shape[1], size * block, k.shape[3])
    k_run = jax.lax.dynamic_slice(k, (row, 0, start, 0), shape)[0]
    v_run = jax.lax.dynamic_slice(v, (row, 0, start, 0), shape)[0]
    q = q_blocks[number]
    scores, slopes = _dot(q, k_run, 2, 2) * made.scale, None
    if made.soft_cap is not None:
        tanh = jnp.tanh(scores / made.soft_cap)
        scores, slopes = made.soft_cap * tanh, 1.0 - jnp.square(tanh)
    query, key = blocks.offset + column * block + jnp.arange(block)[:, None], start + jnp.arange(size * block)
    first_seen = jax.lax.dynamic_slice(first, (row, column * block), (1, block))[0][:, None]
    visible = (key <= query) & (key >= first_seen)
    by_group = scores.reshape(scores.shape[0], -1, block, size * block)
    scores = jnp.where(visible, by_group, _MASKED).reshape(scores.shape)
    return _Run(number, row, start, q, k_run, v_run, scores, slopes)


def _dot(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    """The float32 product over these axes, for each of the leading axis."""
    dimensions = (((a_axis,), (b_axis,)), ((0,), (0,)))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _put(blocks: Array, number: Array, value: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(blocks, value, number, axis=0)


def _add_run(total: Array, run: _Run, value: Float[Array, "kv_heads head_size run"]) -> Array:
    place = (run.row, 0, 0, run.start)
    old = jax.lax.dynamic_slice(total, place, (1, *value.shape))
    return jax.lax.dynamic_update_slice(total, old + value[None], place)


def _to_blocks(
    x: Float[Array, "batch seq heads features"], kv_heads: int, block: int
) -> Float[Array, "blocks kv_heads group*block features"]:
    """Blocks of queries, the heads of a group one below the other, as they all read the same keys."""
    batch, seq, heads, features = x.shape
    x = x.reshape(batch, seq // block, block, kv_heads, heads // kv_heads, features)
    return x.transpose(0, 1, 3, 4, 2, 5).reshape(-1, kv_heads, heads // kv_heads * block, features)


def _from_blocks(
    x: Float[Array, "blocks kv_heads group*block features"], batch: int, heads: int, block: int
) -> Float[Array, "batch seq heads features"]:
    kv_heads, features = x.shape[1], x.shape[3]
    x = x.reshape(batch, -1, kv_heads, heads // kv_heads, block, features)
    return x.transpose(0, 1, 4, 2, 3, 5).reshape(batch, -1, heads, features)


def _by_head(x: Array) -> Array:
    """Swaps the axes of positions and heads."""
    return x.swapaxes(1, 2)
