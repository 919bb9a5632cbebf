"""The kernel for TPU as far as it goes without one: down to what the TPU's compiler is given."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from lodos.nn.attention.splash import splash_attention


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
