"""Rows of which each device holds a part of the tokens: the mesh axis `sequence`.

Where the step shares the rows themselves out (`shares.py`), what is done token by token knows nothing of it. What looks
beyond its own token asks here for the whole row, or where in the row its tokens are.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

SEQUENCE = "sequence"


def row_parts() -> int:
    """Inside `jit`: into how many parts rows are cut here; 1 where they are whole."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[SEQUENCE] if SEQUENCE in mesh.manual_axes else 1


def first_place(length: int) -> int | Int[Array, ""]:
    """The place in the row of the first token of this device's part, of `length` tokens."""
    return 0 if row_parts() == 1 else jax.lax.axis_index(SEQUENCE).astype(jnp.int32) * length


def whole_rows(x: Array) -> Array:
    """`[batch, part, ...]` of all devices of the axis as `[batch, seq, ...]`."""
    return x if row_parts() == 1 else jax.lax.all_gather(x, SEQUENCE, axis=1, tiled=True)


def own_part(x: Array, length: int) -> Array:
    """Of `[batch, seq, ...]` this device's part, `[batch, length, ...]`."""
    return x if row_parts() == 1 else jax.lax.dynamic_slice_in_dim(x, first_place(length), length, axis=1)
