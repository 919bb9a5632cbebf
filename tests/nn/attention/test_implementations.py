"""Every implementation is the formula in float64, in value and in all gradients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention_reference import assert_close, first_of, in_float64, make_arrays, make_segments, with_gradients
from lodos.nn.attention import blockwise
from lodos.nn.attention.attention import attention
from lodos.nn.attention.blockwise import blockwise_attention
from lodos.nn.attention.cudnn import cudnn_attention
from lodos.nn.attention.plain import plain_attention
from lodos.nn.attention.segments import segment_starts

IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "blockwise": blockwise_attention,
    "plain": plain_attention,
    "cudnn's call, by xla": functools.partial(cudnn_attention, implementation="xla"),
}
LENGTH = 71
# Short and long examples, one that fills the row, nothing but filler.
SEGMENTS = make_segments(LENGTH, [1, 9, 30, 2, 3, 16], [LENGTH], [])
HEADS = [(4, 4), (6, 2), (3, 1)]


@pytest.mark.parametrize("window", [None, 1, 20])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_it_is_the_formula(name: str, heads: int, kv_heads: int, window: int | None) -> None:
    q, k, v, d_out = make_arrays(3, LENGTH, heads, kv_heads)
    first = first_of(SEGMENTS, window)
    found = with_gradients(IMPLEMENTATIONS[name], q, k, v, first, d_out=d_out)
    assert_close(found, in_float64(q, k, v, first, d_out), 2e-6)


OPTIONS: dict[str, dict[str, float]] = {
    "scale": dict(scale=1.3),
    "soft cap": dict(soft_cap=1.1),
    "both": dict(scale=1.3, soft_cap=1.1),
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_scale_and_a_soft_cap_are_in_the_formula(name: str, options: str) -> None:
    asked = OPTIONS[options]
    if "soft_cap" in asked and name.startswith("cudnn"):
        pytest.skip("cuDNN's attention has no soft cap, and `auto` does not choose it then")
    q, k, v, d_out = make_arrays(2, LENGTH, 4, 2)
    first = first_of(SEGMENTS[:2], 20)
    found = with_gradients(functools.partial(IMPLEMENTATIONS[name], **asked), q, k, v, first, d_out=d_out)
    assert_close(found, in_float64(q, k, v, first, d_out, **asked), 2e-6)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 96])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_any_length_will_do(name: str, length: int) -> None:
    q, k, v, d_out = make_arrays(2, length, 2, 1)
    first = first_of(make_segments(length, [length], [length // 3, length // 2]), None)
    found = with_gradients(IMPLEMENTATIONS[name], q, k, v, first, d_out=d_out)
    assert_close(found, in_float64(q, k, v, first, d_out), 2e-6)


def test_blocks_of_the_size_that_users_have(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert block < blockwise.BLOCK
    length = 2 * blockwise.BLOCK + 44
    q, k, v, d_out = make_arrays(2, length, 6, 2)
    for window in (None, 20, blockwise.BLOCK + 9):
        first = first_of(make_segments(length, [length], [100, 9, 140, 1, 20]), window)
        found = with_gradients(lambda *args: blockwise_attention(*args), q, k, v, first, d_out=d_out)
        assert_close(found, in_float64(q, k, v, first, d_out), 2e-6)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_bfloat16_is_as_near_as_its_roundings_allow(name: str) -> None:
    q, k, v, d_out = (jnp.asarray(x, jnp.bfloat16) for x in make_arrays(3, LENGTH, 6, 2))
    first = first_of(SEGMENTS, 20)
    found = with_gradients(IMPLEMENTATIONS[name], q, k, v, first, d_out=d_out)
    assert {x.dtype for x in found} == {jnp.dtype(jnp.bfloat16)}
    assert_close(found, in_float64(q, k, v, first, d_out), 0.015)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_the_softmax_is_in_float32(name: str, dtype: Any) -> None:
    """Equal scores over many keys: weights summed in bfloat16 would stop growing at 256."""
    keys = 600
    q, k = jnp.ones((1, keys, 1, 2), dtype), jnp.ones((1, keys, 1, 2), dtype)
    v = jnp.asarray(np.random.default_rng(0).normal(1, 0.5, (1, keys, 1, 2)), dtype)
    out = jax.jit(IMPLEMENTATIONS[name])(q, k, v, jnp.zeros((1, keys), jnp.int32))
    mean = np.asarray(v).astype(np.float64).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(np.asarray(out, np.float32)[0, -1, 0], mean, rtol=0.01)


@pytest.mark.parametrize("scale", [30.0, 1e8, 1e15])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_with_huge_scores_the_largest_wins(name: str, scale: float) -> None:
    """Scores so low, too, that no number but the lowest would hide a key from them."""
    q, k, v, d_out = make_arrays(3, LENGTH, 4, 2, scale=scale)
    v, d_out = v / np.float32(scale), d_out / np.float32(scale)
    first = first_of(SEGMENTS, None)
    found = with_gradients(IMPLEMENTATIONS[name], q, k, v, first, d_out=d_out)
    np.testing.assert_allclose(found.out, in_float64(q, k, v, first, d_out).out, rtol=0, atol=1e-3)
    assert all(np.all(np.isfinite(x)) for x in found)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_what_a_query_does_not_see_changes_nothing_bit_for_bit(name: str) -> None:
    q, k, v, d_out = make_arrays(3, LENGTH, 4, 2)
    first = first_of(SEGMENTS, 20)
    index = np.arange(LENGTH)
    before = with_gradients(IMPLEMENTATIONS[name], q, k, v, first, d_out=d_out)
    for key in (0, 9, 12, 40, 70):
        k2, v2 = k.copy(), v.copy()
        k2[:, key], v2[:, key] = 100.0, -100.0
        after = with_gradients(IMPLEMENTATIONS[name], q, k2, v2, first, d_out=d_out)
        seen = (first <= key) & (key <= index)
        for one, two in ((before.out, after.out), (before.dq, after.dq)):
            same = (np.asarray(one) == np.asarray(two)).all(axis=(2, 3))
            assert np.all(same[~seen])
        assert not np.any((np.asarray(before.out) == np.asarray(after.out)).all(axis=(2, 3))[seen])


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_filler_that_is_trained_sees_itself(name: str) -> None:
    q, k, v, d_out = make_arrays(3, LENGTH, 4, 2)
    found = with_gradients(IMPLEMENTATIONS[name], q, k, v, first_of(SEGMENTS, None), d_out=d_out)
    filler = SEGMENTS == 0
    assert filler.all(axis=1).any()
    np.testing.assert_allclose(np.asarray(found.out)[filler], np.repeat(v, 2, axis=2)[filler], rtol=0, atol=1e-6)
    # One weight that is always 1 has no derivative.
    np.testing.assert_allclose(np.asarray(found.dq)[filler], 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(found.dk)[filler], 0, atol=1e-5)


@functools.cache
def chosen(name: Any, static_window: int | None) -> Callable[..., Any]:
    """`attention` itself, with a window that is known when it is traced or comes as an argument."""

    def run(q: Any, k: Any, v: Any, starts: Any, window: Any = static_window) -> Any:
        return attention(q, k, v, starts, window, implementation=name)

    return run


@pytest.mark.parametrize("window", [None, 1, 20])
@pytest.mark.parametrize("name", ["blockwise", "plain"])
def test_windows_are_the_same_static_and_traced(name: Any, window: int | None) -> None:
    q, k, v, d_out = make_arrays(3, LENGTH, 6, 2)
    starts = segment_starts(jnp.asarray(SEGMENTS))
    expected = in_float64(q, k, v, first_of(SEGMENTS, window), d_out)
    assert_close(with_gradients(chosen(name, window), q, k, v, starts, d_out=d_out), expected, 2e-6)
    if window is not None:
        traced = with_gradients(chosen(name, None), q, k, v, starts, jnp.asarray(window, jnp.int32), d_out=d_out)
        assert_close(traced, expected, 2e-6)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's kernels need an NVIDIA GPU")
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("length", [128, 131])
def test_cudnn_is_the_formula(length: int, window: int | None) -> None:
    q, k, v, d_out = (jnp.asarray(x, jnp.bfloat16) for x in make_arrays(3, length, 6, 2, head_size=64))
    first = first_of(make_segments(length, [1, 9, 30, 2, 3, 16], [length], []), window)
    found = with_gradients(cudnn_attention, q, k, v, first, d_out=d_out)
    assert_close(found, in_float64(q, k, v, first, d_out), 0.015)
