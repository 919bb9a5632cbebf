"""Where the segment of each token starts."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def segment_starts(segment_ids: Int[Array, "batch seq"]) -> Int[Array, "batch seq"]:
    """The index of the first token of each token's segment, int32.

    A segment is a run of equal ids in a row. Filler, id 0, is no segment: each starts at itself, so that it sees a key
    (nothing becomes NaN) and costs next to nothing.
    """
    index = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)[None]
    changes = segment_ids[:, 1:] != segment_ids[:, :-1]
    is_start = jnp.pad(changes, ((0, 0), (1, 0)), constant_values=True) | (segment_ids == 0)
    return jax.lax.cummax(jnp.where(is_start, index, 0), axis=1)


def first_visible(
    starts: Int[Array, "batch seq"], index: Int[Array, "*batch seq"], window: int | Int[Array, ""] | None
) -> Int[Array, "batch seq"]:
    """The earliest key that the token at each `index` sees."""
    return starts if window is None else jnp.maximum(starts, index - window + 1)
