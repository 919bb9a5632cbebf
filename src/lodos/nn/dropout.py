"""Dropout (Srivastava et al. 2014): zeroes a share of the inputs and scales up the rest.

What is dropped of a row of a batch follows from the row's own key, the layer and the place in the row. So it is the
same however the batch is cut up: into microbatches, over devices, or filled up to another length. To this end a key may
be an array of keys, one for each row, wherever a layer takes one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def dropout(
    x: Float[Array, "*tokens features"], rate: float, key: PRNGKeyArray | None
) -> Float[Array, "*tokens features"]:
    """Each element is zero with probability `rate`, else divided by `1 - rate`. Without a key: `x` itself.

    Args:
        key: one, or an array of them, each of which is for an equal part of the tokens, in their order.
    """
    if key is None or rate == 0.0:
        return x

    def keep(key: PRNGKeyArray, part: Array) -> Array:
        # JAX's bits depend on the key and the place alone: neither on how an array is sharded nor on what comes after.
        return jax.random.bernoulli(key, 1.0 - rate, part.shape)

    keys = key.reshape(-1)
    kept = jax.vmap(keep)(keys, x.reshape(keys.size, -1, x.shape[-1])).reshape(x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros((), x.dtype))


def row_keys(key: PRNGKeyArray, rows: int) -> PRNGKeyArray:
    """A key for each row of a batch, `[rows]`: made of one by the index of the row; if there is one for each, these."""
    return fold_in_each(key, rows) if key.ndim == 0 else key


def token_keys(keys: PRNGKeyArray, length: int) -> PRNGKeyArray:
    """A key for each token of `[rows]` keys, `[rows * length]`."""
    return jax.vmap(lambda key: fold_in_each(key, length))(keys).reshape(-1)


def split_key(key: PRNGKeyArray, count: int) -> PRNGKeyArray:
    """`count` keys made of one, `[count]`; of one for each row, `[count, rows]`."""
    keys = jax.vmap(lambda one: jax.random.split(one, count), out_axes=1)(key.reshape(-1))
    return keys.reshape(count, *key.shape)


def fold_in_each(key: PRNGKeyArray, count: int) -> PRNGKeyArray:
    """`count` keys made of one, `[count]`, of which key i does not depend on how many there are."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
