"""Equal layers as one layer with a leading axis, run by `jax.lax.scan`.

A model of thirty layers compiles as one. The stack is a layer like any other whose arrays have one axis more,
so what works on a layer's arrays (casting, sharding, LoRA) works on the stack's.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from lodos.sharding import constrain_parameters

GradientCheckpointing = Literal["none", "full", "dots"]
"""What the backward pass recomputes: nothing; everything but each layer's input; all but large products."""


class Stacked(eqx.Module):
    """`num_layers` layers of one shape."""

    stacked: eqx.Module
    """The layer, every array with a leading `layers` axis."""
    num_layers: int = eqx.field(static=True)
    scan: bool = eqx.field(static=True, default=True)
    """Run with `lax.scan`; False unrolls the loop: a slower compilation, sometimes a faster step."""
    gradient_checkpointing: GradientCheckpointing = eqx.field(static=True, default="none")

    def fold(
        self,
        apply: Callable[[Any, Array, PyTree, PRNGKeyArray | None], tuple[Array, PyTree]],
        x: Array,
        per_layer: PyTree,
        *,
        key: PRNGKeyArray | None,
    ) -> tuple[Array, PyTree]:
        """Passes `x` through the layers: `x, out = apply(layer, x, per_layer[i], key_i)` for each in turn.

        Args:
            per_layer: arrays with a leading `layers` axis, such as a cache.
            key: split into one for each layer, so that no two layers drop the same elements.

        Returns:
            The last `x`, and the layers' `out` stacked.
        """
        keys = None if key is None else jax.random.split(key, self.num_layers)
        arrays, static = eqx.partition(self.stacked, eqx.is_array)

        def body(x: Array, slices: Any) -> tuple[Array, PyTree]:
            layer_arrays, layer_inputs, layer_key = slices
            layer = constrain_parameters(eqx.combine(layer_arrays, static))
            return apply(layer, x, layer_inputs, layer_key)

        body = _checkpointed(body, self.gradient_checkpointing)
        slices = (arrays, per_layer, keys)
        if self.scan:
            return jax.lax.scan(body, x, slices)
        outs = []
        for index in range(self.num_layers):
            x, out = body(x, jax.tree.map(lambda leaf, index=index: leaf[index], slices))
            outs.append(out)
        return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)


def _checkpointed(body: Callable[..., Any], policy: GradientCheckpointing) -> Callable[..., Any]:
    match policy:
        case "none":
            return body
        case "full":
            return jax.checkpoint(body, prevent_cse=False)
        case "dots":
            # Products of flat tokens with weights have no batch axes; attention's have, and are recomputed.
            saved = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            return jax.checkpoint(body, prevent_cse=False, policy=saved)
