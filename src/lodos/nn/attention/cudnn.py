"""cuDNN's fused attention on NVIDIA GPUs, through `jax.nn.dot_product_attention`."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

CUDNN_DTYPES = (jnp.bfloat16, jnp.float16)
"""What cuDNN's kernels compute in."""


def cudnn_attention(
    q: Float[Array, "batch seq heads head_size"],
    k: Float[Array, "batch seq kv_heads head_size"],
    v: Float[Array, "batch seq kv_heads head_size"],
    first: Int[Array, "batch seq"],
    *,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "batch seq heads head_size"]:
    """`softmax(q k^T / sqrt(head_size)) v` of each token over the keys from `first` to itself.

    Segments reach cuDNN as a mask of [batch, 1, seq, seq], one for all heads: the one thing here that grows with the
    square of the length.

    Args:
        first: the first key that each query sees, at most its own index.
        implementation: `xla` computes the same on any platform.
    """
    mask = jnp.arange(q.shape[1]) >= first[:, :, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], is_causal=True, implementation=implementation)
