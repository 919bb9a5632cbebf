"""One optimizer step, as a pure function.

The gradient is that of `sum(weight * loss) / sum(weight)` over the whole batch. A batch too large for the memory
goes through in microbatches, each of which adds its share: its own mean loss times its share of the batch's
weight. So the number of microbatches changes memory and speed, never the value; and clipping and the update see
the whole batch's gradient. What dropout drops of a row follows from the row's own key, which is the same in any
microbatch and on any device.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from lodos.nn.dropout import row_keys
from lodos.row_parts import row_parts
from lodos.sharding import AxisMapping, compute_axis_mapping, shard
from lodos.shares import shares_batch, sum_over_shares
from lodos.train.precision import Policy
from lodos.tree import cast_floating, combine

ComputeLoss = Callable[..., Float[Array, ""]]
"""`compute_loss(model, batch, key=key)`: the mean over the batch, weighted by its `loss_weight`.

`key` is an array of keys, one for each row of the batch, `[rows]`; None in an evaluation."""

Watch = Callable[[PyTree], Mapping[str, Float[Array, ""]]]
"""`watch(model)`: numbers of the model by name, computed on the device together with each step."""


class StepMetrics(eqx.Module):
    """What a step reports, on the device."""

    loss: Float[Array, ""]
    """Of the batch, before the update; nats a token."""
    grad_norm: Float[Array, ""]
    """Global norm of the gradient of the trainable parameters, before clipping."""
    trained_tokens: Float[Array, ""]
    """The sum of the loss weights."""
    tokens: Int[Array, ""]
    """Tokens that are not filler."""
    finite: Array
    """Whether loss and gradient were finite; if not, nothing was updated."""
    watched: dict[str, Float[Array, ""]] = dataclasses.field(default_factory=dict)
    """What `watch` says of the model after the update."""
    agreed: Int[Array, "2"] | None = None
    """What all hosts wish (`lodos.train.agreement`); None of one alone."""


def train_step(
    frozen: PyTree,
    batch: PyTree,
    trainable: PyTree,
    opt_state: optax.OptState,
    key: PRNGKeyArray,
    *,
    compute_loss: ComputeLoss,
    optimizer: optax.GradientTransformation,
    policy: Policy,
    num_microbatches: int,
    compute_mapping: AxisMapping,
    parameter_mapping: AxisMapping,
    watch: Watch | None = None,
    halted: Bool[Array, ""] | None = None,
) -> tuple[PyTree, optax.OptState, StepMetrics]:
    """The trainable parameters and optimizer state after one step on `batch`, `[rows, ...]` arrays.

    They are what they were where the loss or the gradient is not finite.

    Args:
        halted: whether they stay what they were in any case.
    """
    total = batch_weight(batch)
    keys = row_keys(key, jax.tree.leaves(batch)[0].shape[0])

    def gradient(frozen: PyTree, trainable: PyTree, rows: PyTree, total: Array) -> Any:
        def weighted_loss(trainable: PyTree, microbatch: PyTree) -> Float[Array, ""]:
            batch, keys = microbatch
            model = combine(cast_floating(trainable, policy.compute_dtype), frozen)
            with compute_axis_mapping(compute_mapping):
                loss = compute_loss(model, batch, key=keys)
            share = batch_weight(batch) / jnp.where(total > 0, total, 1.0)
            return loss.astype(jnp.float32) * share

        return _accumulate(jax.value_and_grad(weighted_loss), trainable, rows, num_microbatches)

    mappings = dict(compute=compute_mapping, stored=parameter_mapping)
    if shares_batch(batch, trainable, frozen, **mappings):
        loss, grads = sum_over_shares(gradient, frozen, trainable, (batch, keys), total, **mappings)
    else:
        loss, grads = gradient(frozen, trainable, (batch, keys), total)
    grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, trainable)
    grads = shard(grads, parameter_mapping)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updated = finite if halted is None else finite & ~halted
    updates, new_opt_state = optimizer.update(grads, opt_state, trainable)
    new_trainable = eqx.apply_updates(trainable, updates)

    def keep(new: Array, old: Array) -> Array:
        # Chosen, not multiplied by zero: zero times NaN is NaN.
        return jnp.where(updated, new, old)

    new_trainable = shard(jax.tree.map(keep, new_trainable, trainable), parameter_mapping)
    watched = {} if watch is None else dict(watch(combine(new_trainable, frozen)))
    metrics = StepMetrics(loss, grad_norm, total, _token_count(batch), finite, watched)
    return new_trainable, shard(jax.tree.map(keep, new_opt_state, opt_state), parameter_mapping), metrics


def eval_step(
    model: PyTree,
    batch: PyTree,
    *,
    compute_loss: ComputeLoss,
    policy: Policy,
    compute_mapping: AxisMapping,
    parameter_mapping: AxisMapping,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The weighted sum of the losses of a batch, and the sum of its weights. Nothing is dropped out."""

    def sums(model: PyTree, _: None, rows: PyTree) -> tuple[Array, Array]:
        with compute_axis_mapping(compute_mapping):
            loss = compute_loss(cast_floating(model, policy.compute_dtype), rows, key=None)
        weight = batch_weight(rows)
        return loss.astype(jnp.float32) * weight, weight

    mappings = dict(compute=compute_mapping, stored=parameter_mapping)
    if shares_batch(batch, None, model, **mappings):
        return sum_over_shares(sums, model, None, batch, **mappings)
    return sums(model, None, batch)


def batch_weight(batch: PyTree) -> Float[Array, ""]:
    """The sum of the loss weights; of a batch without weights, the number of its rows."""
    weights = getattr(batch, "loss_weight", None)
    if weights is None:
        return jnp.asarray(jax.tree.leaves(batch)[0].shape[0] / row_parts(), jnp.float32)
    return jnp.sum(weights.astype(jnp.float32))


def _accumulate(
    value_and_grad: Callable[..., Any], trainable: PyTree, rows: PyTree, num_microbatches: int
) -> tuple[Float[Array, ""], PyTree]:
    if num_microbatches == 1:
        return value_and_grad(trainable, rows)

    def split(x: Array) -> Array:
        # Row i goes to microbatch i % n, so that each device keeps its own rows.
        return jnp.moveaxis(x.reshape(-1, num_microbatches, *x.shape[1:]), 1, 0)

    def add(carry: PyTree, microbatch: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, carry, value_and_grad(trainable, microbatch)), None

    # In float32 also where parameters have 16 bits, in which many small gradients would not add up.
    zeros = (jnp.zeros((), jnp.float32), jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), trainable))
    return jax.lax.scan(add, zeros, jax.tree.map(split, rows))[0]


def _token_count(batch: PyTree) -> Int[Array, ""]:
    segment_ids = getattr(batch, "segment_ids", None)
    if segment_ids is None:
        return jnp.zeros((), jnp.int32)
    return jnp.sum(segment_ids > 0)
