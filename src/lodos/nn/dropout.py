"""Dropout (Srivastava et al. 2014): zeroes a share of the inputs and scales up the rest."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lodos.shares import own_rows


def dropout(x: Float[Array, "*shape"], rate: float, key: PRNGKeyArray | None) -> Float[Array, "*shape"]:
    """Each element is zero with probability `rate`, else divided by `1 - rate`. Without a key: `x` itself.

    JAX's random bits do not depend on how an array is sharded, so neither does the mask.
    """
    if key is None or rate == 0.0:
        return x
    keep = own_rows(functools.partial(jax.random.bernoulli, key, 1.0 - rate), x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))
