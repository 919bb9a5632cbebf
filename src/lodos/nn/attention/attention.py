"""The attention that layers call: it chooses the implementation and shares the work out among the devices."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lodos.errors import UserError
from lodos.nn.attention.blockwise import blockwise_attention
from lodos.nn.attention.cudnn import CUDNN_DTYPES, cudnn_attention, fits_cudnn
from lodos.nn.attention.plain import plain_attention
from lodos.nn.attention.segments import first_visible
from lodos.nn.attention.splash import splash_attention
from lodos.row_parts import first_place, row_parts, whole_rows
from lodos.sharding import on_each_device, shard_count
from lodos.target import target

AttentionImplementation = Literal["auto", "blockwise", "splash", "cudnn", "plain"]
"""How attention is computed; `auto` is splash on TPU where all layers have one window or none (on v2 and v3 in float32
alone), cudnn on GPU in 16 bits where it takes the size of the heads and scores have no soft cap, and blockwise
everywhere else and where the mesh cuts rows in parts."""

Window = int | Int[Array, ""] | None


def attention(
    q: Float[Array, "batch seq heads head_size"],
    k: Float[Array, "batch seq kv_heads head_size"],
    v: Float[Array, "batch seq kv_heads head_size"],
    starts: Int[Array, "batch seq"],
    window: Window = None,
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
    implementation: AttentionImplementation = "auto",
) -> Float[Array, "batch seq heads head_size"]:
    """`softmax(q k^T / sqrt(head_size)) v` of each token over its segment up to itself.

    Args:
        starts: the index at which each token's segment starts (`segment_starts`). Where a device has a part of each
            row (`row_parts`), the index in the whole row.
        window: how many tokens back a token sees, itself included; None for all.
        scale: of the scores in place of `1 / sqrt(head_size)`.
        soft_cap: scores are `soft_cap * tanh(scores / soft_cap)` (Gemma 2, arXiv:2408.00118).

    Raises:
        UserError: for an implementation that cannot do this.
    """
    offset, parts = first_place(q.shape[1]), row_parts()
    index = offset + jax.lax.broadcasted_iota(starts.dtype, (starts.shape[1],), 0)
    first = first_visible(starts, index, window)
    options: dict[str, Any] = dict(scale=scale, soft_cap=soft_cap)
    match _choose(implementation, q.dtype, q.shape[3], window, soft_cap, parts):
        case "splash":
            assert window is None or isinstance(window, int)
            interpret = target().platform != "tpu"
            options |= dict(window=window, interpret=interpret)
            compute, keys = functools.partial(splash_attention, **options), starts
        case "cudnn":
            compute, keys = functools.partial(cudnn_attention, scale=scale), first
        case "plain":
            compute, keys = functools.partial(plain_attention, **options), first
        case _:
            compute, keys = functools.partial(blockwise_attention, **options), first
    # The kernels are opaque to XLA's partitioner, so each device is given its rows, and its heads with their keys.
    heads = "heads" if shard_count("heads", q.shape[2]) == shard_count("heads", k.shape[2]) else None
    by_head = ("batch", None, heads, None)
    by_token = ("batch", None)
    if parts == 1:
        run = on_each_device(compute, in_axes=(by_head, by_head, by_head, by_token), out_axes=by_head)
        return run(q, k, v, keys)

    def of_whole_rows(q: Array, k: Array, v: Array, first: Array, index: Array) -> Array:
        k, v = whole_rows(k), whole_rows(v)
        return compute(q, k, v, first, index if compute.func is plain_attention else index[0])

    run = on_each_device(of_whole_rows, in_axes=(by_head, by_head, by_head, by_token, (None,)), out_axes=by_head)
    return run(q, k, v, keys, index)


def _multiplies_on_tpu(dtype: Any) -> bool:
    """Whether kernels can multiply matrices of it: before v4, TPUs' kernels have no product in bfloat16."""
    generation = target().tpu_generation
    return generation is None or generation >= 4 or dtype == jnp.float32


def _choose(
    implementation: AttentionImplementation,
    dtype: Any,
    head_size: int,
    window: Window,
    soft_cap: float | None = None,
    parts: int = 1,
) -> AttentionImplementation:
    platform = target().platform
    same_window = window is None or isinstance(window, int)
    if parts > 1:
        if implementation in ("splash", "cudnn"):
            raise UserError(
                f"attn_implementation: {implementation} needs whole rows, and the mesh axis sequence cuts each into "
                f"{parts} parts. Use auto, which is blockwise there."
            )
        return "plain" if implementation == "plain" else "blockwise"
    if implementation == "auto":
        if platform == "tpu" and same_window and _multiplies_on_tpu(dtype):
            return "splash"
        on_cudnn = platform == "gpu" and dtype in CUDNN_DTYPES and fits_cudnn(head_size) and soft_cap is None
        return "cudnn" if on_cudnn else "blockwise"
    if implementation == "splash" and not same_window:
        raise UserError("attn_implementation: splash needs the same sliding window in every layer. Use blockwise.")
    if implementation == "cudnn" and soft_cap is not None:
        raise UserError("attn_implementation: cudnn has no soft cap, and this model's attention has one. Use auto.")
    if implementation == "cudnn" and platform != "gpu":
        raise UserError(f"attn_implementation: cudnn needs an NVIDIA GPU, and this runs on {platform}. Use auto.")
    if implementation == "cudnn" and dtype not in CUDNN_DTYPES:
        raise UserError(
            "attn_implementation: cudnn computes in 16 bits. Set trainer.mp: p=f32,c=bfloat16, or use auto."
        )
    if implementation == "cudnn" and not fits_cudnn(head_size):
        raise UserError(
            f"attn_implementation: cudnn takes heads of a multiple of 8 up to 128, from Hopper on up to 256; this "
            f"model's have {head_size}. Use auto."
        )
    return implementation
