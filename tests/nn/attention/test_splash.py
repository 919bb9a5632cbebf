"""Splash attention, its kernels interpreted on CPU, is the formula in float64; and they are what a TPU compiles."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from attention_reference import (
    assert_close,
    first_of,
    in_float64,
    make_arrays,
    make_segments,
    starts_of,
    with_gradients,
)
from lodos.nn.attention.attention import attention
from lodos.nn.attention.splash import splash_attention

LENGTH = 300
"""Filled up to 384, which is three blocks of 128."""


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (3, 1)])
@pytest.mark.parametrize(
    ("dtype", "window", "tolerance"),
    [
        (jnp.float32, None, 1e-5),
        (jnp.float32, 150, 1e-5),
        (jnp.float32, 20, 1e-5),
        (jnp.bfloat16, None, 0.02),
        (jnp.bfloat16, 150, 0.02),
    ],
)
def test_splash_is_the_formula(dtype: Any, window: int | None, tolerance: float, heads: int, kv_heads: int) -> None:
    # One example over all blocks; examples that begin and end within blocks, with filler behind them.
    segments = make_segments(LENGTH, [LENGTH], [100, 9, 140, 1, 20])
    q, k, v, d_out = (jnp.asarray(x, dtype) for x in make_arrays(2, LENGTH, heads, kv_heads))

    def splash(q: Any, k: Any, v: Any, starts: Any) -> Any:
        return attention(q, k, v, starts, window, implementation="splash")

    found = with_gradients(splash, q, k, v, starts_of(segments), d_out=d_out)
    assert {x.dtype for x in found} == {jnp.dtype(dtype)}
    assert_close(found, in_float64(q, k, v, first_of(segments, window), d_out), tolerance)


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("length", [250, 512])
def test_in_its_larger_blocks_too(length: int, window: int | None) -> None:
    segments = make_segments(length, [length // 3, length // 2, 9])
    q, k, v, d_out = (jnp.asarray(x) for x in make_arrays(1, length, 2, 1))

    def splash(q: Any, k: Any, v: Any, starts: Any) -> Any:
        return attention(q, k, v, starts, window, implementation="splash")

    found = with_gradients(splash, q, k, v, starts_of(segments), d_out=d_out)
    assert_close(found, in_float64(q, k, v, first_of(segments, window), d_out), 1e-5)


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("seq", [512, 700])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_splash_and_its_gradients_lower_to_kernels(dtype: Any, seq: int, window: int | None) -> None:
    def total(q: Any, k: Any, v: Any, starts: Any) -> Any:
        return splash_attention(q, k, v, starts, window).astype(jnp.float32).sum()

    shapes = [jax.ShapeDtypeStruct((2, seq, heads, 64), dtype) for heads in (6, 2, 2)]
    starts = jax.ShapeDtypeStruct((2, seq), jnp.int32)
    traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(*shapes, starts)
    program = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert program.count("@tpu_custom_call") == 2  # forward; the gradients of q, k and v together
