"""Dropout (Srivastava et al. 2014): zeroes a share of the inputs and scales up the rest.

What is dropped of a row of a batch follows from the row's own key, the layer and the place in the row. So it is the
same however the batch is cut up: into microbatches, over devices, or filled up to another length. To this end a key may
be an array of keys, one for each row, wherever a layer takes one.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from lodos.errors import UserError
from lodos.row_parts import first_place, row_parts


def dropout(
    x: Float[Array, "*tokens features"], rate: float, key: PRNGKeyArray | None
) -> Float[Array, "*tokens features"]:
    """Each element is zero with probability `rate`, else divided by `1 - rate`. Without a key: `x` itself.

    Args:
        key: one, or an array of them, each of which is for an equal part of the tokens, in their order.
    """
    kept = kept_elements(x.shape, rate, key)
    return x if kept is None else drop(x, kept, rate)


def split_keys(key: PRNGKeyArray | None, count: int) -> list[PRNGKeyArray | None]:
    """So many keys from one, as `split_key`; none from none."""
    return [None] * count if key is None else list(split_key(key, count))


def drop(
    x: Float[Array, "*tokens features"], kept: Bool[Array, "*tokens features"], rate: float
) -> Float[Array, "*tokens features"]:
    """What dropout at this rate makes of `x` where it keeps these elements."""
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros((), x.dtype))


def kept_elements(
    shape: tuple[int, ...], rate: float, key: PRNGKeyArray | None
) -> Bool[Array, "*tokens features"] | None:
    """Which elements of an array of this shape `dropout` keeps; None where it drops nothing."""
    if key is None or rate == 0.0:
        return None
    keys, features = key.reshape(-1), shape[-1]
    tokens = math.prod(shape[:-1])
    part = (tokens // keys.size, features)

    def keep(key: PRNGKeyArray) -> Array:
        # JAX's bits depend on the key and the place alone: neither on how an array is sharded nor on what comes after.
        return jax.random.bernoulli(key, 1.0 - rate, part)

    def keep_of_row(key: PRNGKeyArray) -> Array:
        return _kept_from(key, 1.0 - rate, part, first_place(part[0]))

    is_by_row = row_parts() > 1 and keys.size < tokens
    return jax.vmap(keep_of_row if is_by_row else keep)(keys).reshape(shape)


def _kept_from(key: PRNGKeyArray, p: float, shape: tuple[int, ...], start: int | Array) -> Array:
    """`jax.random.bernoulli(key, p, [any, features])` from row `start` on, `shape` of it, without what comes before.

    Raises:
        UserError: for keys that are not Threefry's, JAX's own, of whose bits alone a part can be made; and for rows of
            more than 2**32 numbers, where its counter would have to be longer.
    """
    config: Any = jax.config  # its flags have no types
    if jax.random.key_impl(key) != "threefry2x32" or not config.jax_threefry_partitionable:
        raise UserError("jax_default_prng_impl: with the mesh axis sequence dropout needs threefry2x32.")
    count = math.prod(shape)
    if count * row_parts() > 2**32:
        raise UserError(f"lora.dropout: rows of {shape[0] * row_parts()} tokens are too long for it. Set it to 0.")
    low = jnp.uint32(start) * jnp.uint32(shape[1]) + jnp.arange(count, dtype=jnp.uint32)
    bits = threefry_2x32(jax.random.key_data(key), jnp.concatenate([jnp.zeros_like(low), low])).reshape(2, count)
    # As `jax.random.uniform` makes a float32 of 32 bits: 23 of them after the point of a number from 1 to 2.
    floats = jax.lax.bitcast_convert_type(((bits[0] ^ bits[1]) >> 9) | jnp.uint32(0x3F800000), jnp.float32) - 1.0
    return (floats < p).reshape(shape)


def row_keys(key: PRNGKeyArray, rows: int) -> PRNGKeyArray:
    """A key for each row of a batch, `[rows]`: made of one by the index of the row; if there is one for each, these."""
    return fold_in_each(key, rows) if key.ndim == 0 else key


def token_keys(keys: PRNGKeyArray, length: int) -> PRNGKeyArray:
    """A key for each token of `[rows]` keys, `[rows * length]`."""
    places = first_place(length) + jnp.arange(length)
    return jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, places))(keys).reshape(-1)


def split_key(key: PRNGKeyArray, count: int) -> PRNGKeyArray:
    """`count` keys made of one, `[count]`; of one for each row, `[count, rows]`."""
    keys = jax.vmap(lambda one: jax.random.split(one, count), out_axes=1)(key.reshape(-1))
    return keys.reshape(count, *key.shape)


def fold_in_each(key: PRNGKeyArray, count: int) -> PRNGKeyArray:
    """`count` keys made of one, `[count]`, of which key i does not depend on how many there are."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
