"""From logits to the next token: the likeliest one, or one drawn from the likely part of the distribution.

The cuts are those of transformers: first the temperature, then the `top_k` likeliest tokens, then of these
the smallest set whose probability reaches `top_p` (nucleus sampling, Holtzman et al. 2019, arXiv:1904.09751).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lodos.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Raises:
        UserError: for a setting out of its range; all of them at once.
    """

    temperature: float = 0.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int | None = None
    """Draw from this many of the likeliest tokens; None from all."""
    top_p: float | None = None
    """Draw from the fewest tokens whose probabilities add up to this; None from all."""

    def __post_init__(self) -> None:
        problems = []
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            problems.append(f"temperature: {self.temperature} is not a number of 0 or more.")
        if self.top_k is not None and self.top_k < 1:
            problems.append(f"top_k: {self.top_k} is less than 1. Leave it out to draw from all tokens.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            problems.append(f"top_p: {self.top_p} is not above 0 and up to 1.")
        if problems:
            raise UserError("\n".join(problems))


def sample(logits: Float[Array, "batch vocab"], keys: PRNGKeyArray, sampling: Sampling) -> Int[Array, " batch"]:
    """A token for each row, in float32 whatever the dtype of the logits.

    Args:
        keys: one for each row, `[batch]`, so that what a row draws does not depend on its neighbours.
    """
    logits = logits.astype(jnp.float32)
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_k is None and sampling.top_p is None:
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
    vocab = logits.shape[-1]
    likeliest, ids = jax.lax.top_k(logits, min(sampling.top_k or vocab, vocab))
    if sampling.top_p is not None:
        probabilities = jax.nn.softmax(likeliest, axis=-1)
        # A token stays if those likelier than it have not reached top_p yet; so the first one always does.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        keep = (before < sampling.top_p).at[:, 0].set(True)
        likeliest = jnp.where(keep, likeliest, -jnp.inf)
    drawn = jax.vmap(jax.random.categorical)(keys, likeliest)
    return jnp.take_along_axis(ids, drawn[:, None], axis=-1)[:, 0].astype(jnp.int32)
