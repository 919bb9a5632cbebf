"""The next-token loss: computed for the tokens that carry loss, and never holding the logits of more than a chunk.

    order    the tokens with weight first
    chunks   their hidden states, a few hundred at a time, go through the output head
    each     adds its loss, and the gradients of the hidden states and of what is trained of the head

The loop ends where the tokens with weight end, so the cost follows their number and not the size of the batch. The
gradients are made on the way forward, while a chunk's logits are there; the backward pass multiplies them by one
number. So logits are computed once, and `[tokens, vocab]` never exists.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from lodos.sharding import constrain, shard_count

CHUNKS = (512, 128)
"""Tokens whose logits are held at once; what is left over of the first goes in chunks of the second."""


Head = Callable[..., Float[Array, "tokens vocab"]]
"""An output head, a module: `head(hidden, key=key)`."""


class WeightedLoss(eqx.Module):
    """A sum of weighted losses beside the sum of their weights, which add up over batches as the mean does not."""

    total: Float[Array, ""]
    """`sum(weight * nll)`, in nats."""
    weight: Float[Array, ""]

    def scalar(self) -> Float[Array, ""]:
        """The weighted mean, in nats a token; 0 where nothing has weight."""
        return self.total / jnp.where(self.weight > 0, self.weight, 1.0)


def next_token_loss(
    head: Head,
    hidden: Float[Array, "tokens embed"],
    targets: Int[Array, " tokens"],
    weights: Float[Array, " tokens"],
    *,
    soft_cap: float | None = None,
    z_loss: float = 0.0,
    chunks: tuple[int, ...] = CHUNKS,
    key: PRNGKeyArray | None = None,
) -> WeightedLoss:
    """The cross-entropy of `head(hidden, key=key)` against `targets`, in float32 whatever the compute dtype.

    Args:
        head: the output head, `[tokens, embed] -> [tokens, vocab]`; linear in what it is given.
        weights: of each token; those with 0 are not computed.
        soft_cap: logits are `soft_cap * tanh(logits / soft_cap)` (Gemma 2, arXiv:2408.00118).
        z_loss: adds `z_loss * log(sum(exp(logits)))^2` to each token's loss (PaLM, arXiv:2204.02311).
        chunks: descending.
        key: for a head with dropout, one for each token, `[tokens]`.
    """
    weights = weights.astype(jnp.float32)
    options = _Options(soft_cap, z_loss, chunks)
    total = _weighted_nll((head, hidden), targets, weights, key, options)
    return WeightedLoss(total, jnp.sum(weights))


class _Options(eqx.Module):
    soft_cap: float | None = eqx.field(static=True)
    z_loss: float = eqx.field(static=True)
    chunks: tuple[int, ...] = eqx.field(static=True)


@eqx.filter_custom_vjp
def _weighted_nll(
    differentiated: tuple[Head, Array],
    targets: Array,
    weights: Array,
    key: PRNGKeyArray | None,
    options: _Options,
) -> Array:
    nothing = (jax.tree.map(lambda _: False, differentiated[0]), False)
    return _loop(nothing, differentiated, targets, weights, key, options)[0]


@_weighted_nll.def_fwd
def _weighted_nll_fwd(perturbed: Any, differentiated: Any, *args: Any) -> tuple[Array, Any]:
    return _loop(perturbed, differentiated, *args)


@_weighted_nll.def_bwd
def _weighted_nll_bwd(gradients: Any, d_total: Array, perturbed: Any, *args: Any) -> Any:
    del perturbed, args
    return jax.tree.map(lambda gradient: (d_total * gradient).astype(gradient.dtype), gradients)


def _loop(
    perturbed: Any,
    differentiated: tuple[Head, Float[Array, "tokens embed"]],
    targets: Int[Array, " tokens"],
    weights: Float[Array, " tokens"],
    key: PRNGKeyArray | None,
    options: _Options,
) -> tuple[Float[Array, ""], PyTree]:
    """The sum of the losses and, of what is perturbed, the gradients."""
    (head, hidden), (head_perturbed, hidden_perturbed) = differentiated, perturbed
    trained, frozen = eqx.partition(head, head_perturbed)
    # Tokens are gathered within each device's share of them, so that none travels.
    shards = shard_count("tokens", hidden.shape[0])
    hidden, targets, weights = (x.reshape(shards, -1, *x.shape[1:]) for x in (hidden, targets, weights))
    keys = None if key is None else key.reshape(shards, -1)
    per_shard = hidden.shape[1]
    order = jnp.argsort(weights == 0, axis=1, stable=True)
    order = jnp.pad(order, ((0, 0), (0, max(options.chunks))), constant_values=per_shard)
    count = jnp.max(jnp.sum(weights != 0, axis=1))

    def step(size: int, start: Array, carry: tuple[Array, PyTree, Array | None]) -> tuple[Array, PyTree, Array | None]:
        total, d_trained, d_hidden = carry
        index = jax.lax.dynamic_slice_in_dim(order, start, size, axis=1)
        # Beyond the end of the order everything is 0, the weight included.
        take = jax.vmap(lambda x, i: x.at[i].get(mode="fill", fill_value=0))
        chunk = tuple(_flat(take(x, index)) for x in (hidden, targets, weights))
        chunk_keys = None if keys is None else _flat(jax.vmap(lambda x, i: x.at[i].get(mode="clip"))(keys, index))
        loss, d_head_chunk, d_chunk = _chunk(trained, frozen, chunk, chunk_keys, options, hidden_perturbed)
        d_trained = jax.tree.map(lambda total, part: total + part.astype(jnp.float32), d_trained, d_head_chunk)
        if d_hidden is not None and d_chunk is not None:
            put = jax.vmap(lambda x, i, value: x.at[i].set(value, mode="drop", unique_indices=True))
            d_hidden = put(d_hidden, index, d_chunk.reshape(shards, size, -1))
        return total + loss, d_trained, d_hidden

    carry = (
        jnp.zeros((), jnp.float32),
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), trained),
        jnp.zeros_like(hidden) if hidden_perturbed else None,
    )
    start = jnp.zeros((), count.dtype)
    for size in options.chunks:
        is_last = size == options.chunks[-1]
        stop = start + (-(-(count - start) // size) if is_last else (count - start) // size) * size

        def body(state: Any, size: int = size) -> Any:
            start, carry = state
            return start + size, step(size, start, carry)

        start, carry = jax.lax.while_loop(lambda state, stop=stop: state[0] < stop, body, (start, carry))
    total, d_trained, d_hidden = carry
    d_trained = jax.tree.map(lambda gradient, leaf: gradient.astype(leaf.dtype), d_trained, trained)
    return total, (d_trained, None if d_hidden is None else d_hidden.reshape(-1, hidden.shape[-1]))


def _chunk(
    trained: PyTree,
    frozen: PyTree,
    chunk: tuple[Array, ...],
    key: PRNGKeyArray | None,
    options: _Options,
    hidden_perturbed: bool,
) -> tuple[Float[Array, ""], PyTree, Float[Array, "chunk embed"] | None]:
    """The loss of a chunk, and the gradients of what is trained of the head and of the hidden states.

    `chunk` is hidden `[chunk, embed]`, targets `[chunk]` and weights `[chunk]`.

    With `e = exp(logits - max)` and `l = sum(e)` the gradient of the logits is, in the same memory as `e`,

        scale * (e - l / (1 + 2 z_loss log_sum) at the target),    scale = weight * (1 + 2 z_loss log_sum) / l
    """

    hidden, targets, weights = chunk

    def head(trained: PyTree, hidden: Array) -> Array:
        return eqx.combine(trained, frozen)(constrain(hidden, "tokens", None), key=key)

    needs_gradient = hidden_perturbed or bool(jax.tree.leaves(trained))
    raw, pull_back = jax.vjp(head, trained, hidden) if needs_gradient else (head(trained, hidden), None)
    logits = raw.astype(jnp.float32)
    if options.soft_cap is not None:
        logits = options.soft_cap * jnp.tanh(logits / options.soft_cap)
    largest = jnp.max(logits, axis=-1)
    # One pass makes the exponentials, another adds them up: fused, the sum would not be vectorised on CPU.
    exponentials = jax.lax.optimization_barrier(jnp.exp(logits - largest[:, None]))
    sums = jnp.sum(exponentials, axis=-1)
    log_sums = largest + jnp.log(sums)
    target_logits = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    nll = log_sums - target_logits
    # Not 0 times the square, which logits beyond 1e19 make infinite.
    losses = nll + options.z_loss * jnp.square(log_sums) if options.z_loss else nll
    loss = jnp.sum(weights * losses)
    if pull_back is None:
        return loss, trained, None

    slope = 1.0 + 2.0 * options.z_loss * log_sums
    scale = weights * slope / sums
    # Row by row, not at `[rows, targets]`: so XLA's partitioner sees that no row needs another device's.
    d_logits = jax.vmap(lambda row, target, change: row.at[target].add(change))(exponentials, targets, -sums / slope)
    if options.soft_cap is not None:
        d_logits = d_logits * (1.0 - jnp.square(logits / options.soft_cap))
    if not jax.tree.leaves(trained):
        # The head is linear, so its rows may be scaled after it: `embed` numbers a token in place of `vocab`. But for
        # float16, which ends at 65,504: there a row has a divisor first, its sum.
        if raw.dtype == jnp.float16:
            d_logits, scale = d_logits / sums[:, None], scale * sums
        d_hidden = pull_back(d_logits.astype(raw.dtype))[1]
        return loss, trained, (scale[:, None] * d_hidden.astype(jnp.float32)).astype(hidden.dtype)
    d_trained, d_hidden = pull_back((scale[:, None] * d_logits).astype(raw.dtype))
    return loss, d_trained, d_hidden


def _flat(x: Float[Array, "shards chunk ..."]) -> Float[Array, "shards*chunk ..."]:
    return x.reshape(math.prod(x.shape[:2]), *x.shape[2:])
