"""Attention and its gradients by their formulas in float64, and packed rows to try an implementation on."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Attended(NamedTuple):
    """The output and, of `sum(out * d_out)`, the gradients."""

    out: Any
    dq: Any
    dk: Any
    dv: Any


def in_float64(
    q: Any, k: Any, v: Any, first: Any, d_out: Any, *, scale: float | None = None, soft_cap: float | None = None
) -> Attended:
    """Each query sees the keys from `first[row, query]` to its own index; heads of a group read the same keys."""
    q, k, v, d_out = (np.asarray(x).astype(np.float64) for x in (q, k, v, d_out))
    group, scale = q.shape[2] // k.shape[2], scale or q.shape[3] ** -0.5
    keys, values = (np.repeat(x, group, axis=2) for x in (k, v))
    index = np.arange(q.shape[1])
    visible = (index >= np.asarray(first)[:, :, None]) & (index <= index[:, None])
    scores = np.einsum("bqhd,bkhd->bhqk", q, keys) * scale
    tanh = np.zeros_like(scores) if soft_cap is None else np.tanh(scores / soft_cap)
    scores = scores if soft_cap is None else soft_cap * tanh
    scores = np.where(visible[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    d_weights = np.einsum("bqhd,bkhd->bhqk", d_out, values)
    d_scores = weights * (d_weights - np.sum(weights * d_weights, axis=-1, keepdims=True)) * scale * (1 - tanh**2)

    def of_groups(gradient: np.ndarray) -> np.ndarray:
        return gradient.reshape(*k.shape[:3], group, -1).sum(axis=3)

    return Attended(
        np.einsum("bhqk,bkhd->bqhd", weights, values),
        np.einsum("bhqk,bkhd->bqhd", d_scores, keys),
        of_groups(np.einsum("bhqk,bqhd->bkhd", d_scores, q)),
        of_groups(np.einsum("bhqk,bqhd->bkhd", weights, d_out)),
    )


def with_gradients(attention: Callable[..., Any], q: Any, k: Any, v: Any, *rest: Any, d_out: Any) -> Attended:
    """What an implementation gives."""
    return Attended(*_compiled(attention)(q, k, v, rest, d_out))


@functools.cache
def _compiled(attention: Callable[..., Any]) -> Callable[..., Any]:
    @jax.jit
    def run(q: Any, k: Any, v: Any, rest: Any, d_out: Any) -> Any:
        out, pull_back = jax.vjp(lambda q, k, v: attention(q, k, v, *rest), q, k, v)
        return out, *pull_back(d_out)

    return run


def make_arrays(batch: int, length: int, heads: int, kv_heads: int, head_size: int = 6, scale: float = 1.0) -> Any:
    """q, k, v and d_out, float32."""
    rng = np.random.default_rng(length)
    sizes = (heads, kv_heads, kv_heads, heads)
    return tuple((scale * rng.normal(size=(batch, length, n, head_size))).astype(np.float32) for n in sizes)


def make_segments(length: int, *rows: Sequence[int]) -> np.ndarray:
    """A row for each list of segment lengths, filler after them. int32."""
    segments = np.zeros((len(rows), length), np.int32)
    for row, lengths in zip(segments, rows, strict=True):
        ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)[:length]
        row[: len(ids)] = ids
    return segments


def starts_of(segments: np.ndarray) -> np.ndarray:
    """Token by token, where its segment starts; filler at itself. int32."""
    starts = np.zeros_like(segments)
    for row, index in np.ndindex(*segments.shape):
        own = segments[row, index]
        same = own != 0 and index > 0 and segments[row, index - 1] == own
        starts[row, index] = starts[row, index - 1] if same else index
    return starts


def first_of(segments: np.ndarray, window: int | None) -> np.ndarray:
    """Token by token, the first key that it sees. int32."""
    starts = starts_of(segments)
    return starts if window is None else np.maximum(starts, np.arange(starts.shape[1], dtype=np.int32) - window + 1)


def assert_close(found: Attended, expected: Attended, tolerance: float) -> None:
    """Each array to within `tolerance` of 1 or the largest number that it should hold."""
    for name, one, two in zip(Attended._fields, found, expected, strict=True):
        error = np.abs(np.asarray(one).astype(np.float64) - two).max()
        assert error <= tolerance * max(1.0, np.abs(two).max()), (name, error, np.abs(two).max())
