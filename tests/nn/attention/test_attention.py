"""Which implementation is chosen where, and which cannot do what is asked."""

from typing import Any

import jax.numpy as jnp
import pytest

from devices import described
from lodos.errors import UserError
from lodos.nn.attention.attention import AttentionImplementation, _choose, attention
from lodos.target import compiling_for

TRACED = jnp.asarray(3)


@pytest.mark.parametrize(
    ("platform", "dtype", "window", "expected"),
    [
        ("cpu", jnp.float32, None, "blockwise"),
        ("cpu", jnp.bfloat16, 3, "blockwise"),
        ("tpu", jnp.float32, None, "splash"),
        ("tpu", jnp.bfloat16, 3, "splash"),
        ("tpu", jnp.bfloat16, TRACED, "blockwise"),  # splash has to know its mask when it is compiled
        ("gpu", jnp.bfloat16, None, "cudnn"),
        ("gpu", jnp.float16, TRACED, "cudnn"),
        ("gpu", jnp.float32, None, "blockwise"),  # cuDNN has no 32 bits
        ("metal", jnp.bfloat16, None, "blockwise"),
    ],
)
def test_the_platform_chooses(platform: str, dtype: Any, window: Any, expected: str) -> None:
    with compiling_for(described(platform, compute_capability="8.0")):
        assert _choose("auto", jnp.dtype(dtype), 64, window) == expected


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        ("TPU v2", jnp.bfloat16, "blockwise"),  # whose kernels multiply in float32 alone
        ("TPU v3", jnp.bfloat16, "blockwise"),
        ("TPU v3", jnp.float32, "splash"),
        ("TPU v4", jnp.bfloat16, "splash"),
        ("TPU v5 lite", jnp.bfloat16, "splash"),
    ],
)
def test_the_generation_of_a_tpu_chooses(kind: str, dtype: Any, expected: str) -> None:
    with compiling_for(described("tpu", device_kind=kind)):
        assert _choose("auto", jnp.dtype(dtype), 64, None) == expected


@pytest.mark.parametrize(
    ("capability", "head_size", "expected"),
    [
        ("8.0", 128, "cudnn"),
        ("8.0", 136, "blockwise"),
        ("9.0", 256, "cudnn"),
        ("10.3", 256, "cudnn"),
        ("9.0", 264, "blockwise"),
        ("9.0", 60, "blockwise"),
        ("gfx90a", 64, "blockwise"),
    ],
)
def test_heads_that_cudnn_does_not_take_are_blockwise(capability: str, head_size: int, expected: str) -> None:
    with compiling_for(described("gpu", compute_capability=capability)):
        assert _choose("auto", jnp.dtype(jnp.bfloat16), head_size, None) == expected
        if expected == "blockwise":
            with pytest.raises(UserError, match=f"this model's have {head_size}"):
                _choose("cudnn", jnp.dtype(jnp.bfloat16), head_size, None)


@pytest.mark.parametrize("name", ["blockwise", "plain", "splash"])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_the_user_may_choose(name: AttentionImplementation, platform: str) -> None:
    with compiling_for(described(platform)):
        assert _choose(name, jnp.dtype(jnp.bfloat16), 64, None) == name


@pytest.mark.parametrize(
    ("name", "platform", "dtype", "window", "message"),
    [
        ("cudnn", "cpu", jnp.bfloat16, None, r"attn_implementation: cudnn needs an NVIDIA GPU, and this runs on cpu"),
        ("cudnn", "tpu", jnp.bfloat16, None, r"this runs on tpu\. Use auto\."),
        ("cudnn", "gpu", jnp.float32, None, r"cudnn computes in 16 bits\. Set trainer\.mp: p=f32,c=bfloat16"),
        ("splash", "tpu", jnp.bfloat16, TRACED, r"splash needs the same sliding window in every layer\. Use blockwise"),
    ],
)
def test_what_cannot_be_is_refused(
    name: AttentionImplementation,
    platform: str,
    dtype: Any,
    window: Any,
    message: str,
) -> None:
    x = jnp.ones((1, 4, 1, 2), dtype)
    with compiling_for(described(platform)), pytest.raises(UserError, match=message):
        attention(x, x, x, jnp.zeros((1, 4), jnp.int32), window, implementation=name)
