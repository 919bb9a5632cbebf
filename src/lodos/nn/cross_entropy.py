"""The next-token loss, without ever holding the logits of a whole batch.

Tokens go through the output head in chunks of a few hundred. Each chunk's logits are recomputed in the backward
pass, so the largest array is `[chunk, vocab]` instead of `[tokens, vocab]`.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lodos.sharding import constrain

CHUNK = 512
"""Tokens whose logits are held at once."""


class WeightedLoss(eqx.Module):
    """A sum of weighted losses beside the sum of their weights, which add up over batches as the mean does not."""

    total: Float[Array, ""]
    """`sum(weight * nll)`, in nats."""
    weight: Float[Array, ""]

    def scalar(self) -> Float[Array, ""]:
        """The weighted mean, in nats a token; 0 where nothing has weight."""
        return self.total / jnp.where(self.weight > 0, self.weight, 1.0)


def next_token_loss(
    head: Callable[[Float[Array, "tokens embed"], PRNGKeyArray | None], Float[Array, "tokens vocab"]],
    hidden: Float[Array, "tokens embed"],
    targets: Int[Array, " tokens"],
    weights: Float[Array, " tokens"],
    *,
    chunk: int = CHUNK,
    key: PRNGKeyArray | None = None,
) -> WeightedLoss:
    """The cross-entropy of `head(hidden, key)` against `targets`, in float32 whatever the compute dtype.

    Args:
        key: for a head with dropout, split into one for each chunk.
    """
    count = hidden.shape[0]
    num_chunks = max(1, -(-count // chunk))
    padding = -count % num_chunks

    def chunked(x: Array) -> Array:
        x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
        # Every num_chunks-th token makes a chunk, so that each device's share of the tokens is in every chunk.
        return jnp.moveaxis(x.reshape(-1, num_chunks, *x.shape[1:]), 1, 0)

    @jax.checkpoint
    def chunk_loss(hidden: Array, targets: Array, weights: Array, key: PRNGKeyArray | None) -> Array:
        logits = head(constrain(hidden, "tokens", None), key).astype(jnp.float32)
        target_logits = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return jnp.sum(weights * (jax.nn.logsumexp(logits, axis=-1) - target_logits))

    weights = weights.astype(jnp.float32)
    keys = None if key is None else jax.random.split(key, num_chunks)
    total, _ = jax.lax.scan(
        lambda total, xs: (total + chunk_loss(*xs), None),
        jnp.zeros((), jnp.float32),
        (chunked(hidden), chunked(targets), chunked(weights), keys),
    )
    return WeightedLoss(total, jnp.sum(weights))
