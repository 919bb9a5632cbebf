"""cuDNN's fused attention on NVIDIA GPUs, through `jax.nn.dot_product_attention`."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lodos.target import target

CUDNN_DTYPES = (jnp.bfloat16, jnp.float16)
"""What cuDNN's kernels compute in."""

_HOPPER = (9, 0)


def fits_cudnn(head_size: int) -> bool:
    """Whether cuDNN's kernels take heads of this size on the GPU that is compiled for."""
    capability = target().compute_capability
    if capability is None:
        return False
    return head_size % 8 == 0 and head_size <= (256 if capability >= _HOPPER else 128)


def cudnn_attention(
    q: Float[Array, "batch seq heads head_size"],
    k: Float[Array, "batch seq kv_heads head_size"],
    v: Float[Array, "batch seq kv_heads head_size"],
    first: Int[Array, "batch seq"],
    *,
    scale: float | None = None,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "batch seq heads head_size"]:
    """`softmax(q k^T / sqrt(head_size)) v` of each token over the keys from `first` to itself.

    Segments reach cuDNN as a mask of [batch, 1, seq, seq], one for all heads: the one thing here that grows with the
    square of the length. With one, cuDNN wants an even length.

    JAX gives no names to what its derivative keeps, so gradient checkpointing by names computes the forward pass again.

    Args:
        first: the first key that each query sees, at most its own index.
        scale: of the scores in place of `1 / sqrt(head_size)`.
        implementation: `xla` computes the same on any platform.
    """
    seq = q.shape[1]
    if seq % 2:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
        first = jnp.pad(first, ((0, 0), (0, 1)), constant_values=seq)  # it sees itself
    mask = jnp.arange(q.shape[1]) >= first[:, :, None]
    out = jax.nn.dot_product_attention(
        q, k, v, mask=mask[:, None], is_causal=True, scale=scale, implementation=implementation
    )
    return out[:, :seq]
