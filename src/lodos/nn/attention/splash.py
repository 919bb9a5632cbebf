"""JAX's splash attention on TPU: a Pallas kernel that skips what causality and the window rule out."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lodos.nn.attention.blockwise import OUT_NAME

LANES = 128
"""Head sizes and lengths are filled up to multiples of it."""
_LARGEST_BLOCK = 512


def splash_attention(
    q: Float[Array, "batch seq heads head_size"],
    k: Float[Array, "batch seq kv_heads head_size"],
    v: Float[Array, "batch seq kv_heads head_size"],
    starts: Int[Array, "batch seq"],
    window: int | None,
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
    interpret: bool = False,
) -> Float[Array, "batch seq heads head_size"]:
    """`softmax(q k^T / sqrt(head_size)) v` of each token over its segment up to itself.

    Args:
        starts: where the segment of each token starts, which tells segments apart as well as an id does.
        scale: of the scores in place of `1 / sqrt(head_size)`.
        soft_cap: scores are `soft_cap * tanh(scores / soft_cap)`.
        interpret: run the kernel's Python on any platform, very slowly.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    seq, head_size = q.shape[1], q.shape[3]
    fill, fill_head = -seq % LANES, -head_size % LANES
    q, k, v = (jnp.pad(x, ((0, 0), (0, fill), (0, 0), (0, fill_head))).swapaxes(1, 2) for x in (q, k, v))
    own = jnp.broadcast_to(jnp.arange(seq, seq + fill, dtype=starts.dtype), (starts.shape[0], fill))
    ids = jnp.concatenate([starts, own], axis=1)
    kernel = _kernel(q.shape[1], q.shape[2], window, soft_cap, interpret)
    out = jax.vmap(kernel)(q * (scale or head_size**-0.5), k, v, SegmentIds(ids, ids))
    return out.swapaxes(1, 2)[:, :seq, :, :head_size].astype(v.dtype)


def _kernel(heads: int, seq: int, window: int | None, soft_cap: float | None, interpret: bool) -> Callable[..., Any]:
    """Made anew in each trace: the mask is an array of it, since devices that are only described can hold no other."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    # A local mask of (window - 1, 0): the key itself and window - 1 before it.
    shape = (seq, seq)
    mask = splash.CausalMask(shape) if window is None else splash.LocalMask(shape, (window - 1, 0), 0)
    block = next(size for size in (_LARGEST_BLOCK, 256, LANES) if seq % size == 0)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        use_fused_bwd_kernel=True,
    )
    return splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=OUT_NAME,
        attn_logits_soft_cap=soft_cap,
        interpret=interpret,
    )
