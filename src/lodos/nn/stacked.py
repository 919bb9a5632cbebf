"""Equal layers as one layer with a leading axis, run by `jax.lax.scan`.

A model of thirty layers compiles as one. The stack is a layer like any other whose arrays have one axis more,
so what works on a layer's arrays (casting, sharding, LoRA) works on the stack's.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from lodos.nn.attention.blockwise import OUT_NAME
from lodos.nn.linear import PRODUCT_NAME
from lodos.sharding import constrain_parameters

GradientCheckpointing = Literal["none", "full", "dots"]
"""What the backward pass recomputes: nothing; everything but each layer's input; or, `dots`, all but the products of
activations and weights and the output of attention: norms, activations and rotations cost little to make again."""


@runtime_checkable
class PartOfStack(Protocol):
    """A module that is not the same in all layers of a stack."""

    @property
    def first_layer(self) -> int:
        """The lowest layer in which it has anything to train."""
        ...

    def in_layers(self, start: int, stop: int) -> eqx.Module:
        """The part of the stack from layer `start` to `stop`."""
        ...


class Stacked(eqx.Module):
    """`num_layers` layers of one shape."""

    stacked: eqx.Module
    """The layer, every array with a leading `layers` axis."""
    num_layers: int = eqx.field(static=True)
    scan: bool = eqx.field(static=True, default=True)
    """Run with `lax.scan`; False unrolls the loop: a slower compilation, sometimes a faster step."""
    gradient_checkpointing: GradientCheckpointing = eqx.field(static=True, default="dots")

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
        outs = []
        for start, stop in pairwise(self._boundaries()):
            whole = (start, stop) == (0, self.num_layers)
            layers = self.stacked if whole else _in_layers(self.stacked, start, stop)
            slices = (per_layer, keys) if whole else jax.tree.map(lambda leaf: leaf[start:stop], (per_layer, keys))  # noqa: B023
            x, out = self._run(layers, stop - start, apply, x, *slices)
            outs.append(out)
        return x, outs[0] if len(outs) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outs)

    def _boundaries(self) -> list[int]:
        """Where runs of layers start that are folded together, and the end.

        Below the first layer that has anything to train nothing is differentiated. In one `scan` with the layers above
        it JAX could not know.
        """
        parts = [node for node in jax.tree.leaves(self.stacked, is_leaf=_is_partial) if _is_partial(node)]
        first = min((part.first_layer for part in parts), default=0)
        return [0, self.num_layers] if first == 0 else [0, first, self.num_layers]

    def _run(
        self, layers: eqx.Module, count: int, apply: Callable[..., Any], x: Array, per_layer: PyTree, keys: Array | None
    ) -> tuple[Array, PyTree]:
        arrays, static = eqx.partition(layers, eqx.is_array)

        def body(x: Array, slices: Any) -> tuple[Array, PyTree]:
            layer_arrays, layer_inputs, layer_key = slices
            layer = constrain_parameters(eqx.combine(layer_arrays, static))
            return apply(layer, x, layer_inputs, layer_key)

        body = _checkpointed(body, self.gradient_checkpointing)
        slices = (arrays, per_layer, keys)
        if self.scan:
            return jax.lax.scan(body, x, slices)
        outs = []
        for index in range(count):
            x, out = body(x, jax.tree.map(lambda leaf, index=index: leaf[index], slices))
            outs.append(out)
        return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)


def _is_partial(node: object) -> bool:
    return isinstance(node, PartOfStack)


def _in_layers(layers: eqx.Module, start: int, stop: int) -> eqx.Module:
    return jax.tree.map(
        lambda node: node.in_layers(start, stop) if _is_partial(node) else node[start:stop], layers, is_leaf=_is_partial
    )


def _checkpointed(body: Callable[..., Any], policy: GradientCheckpointing) -> Callable[..., Any]:
    match policy:
        case "none":
            return body
        case "full":
            return jax.checkpoint(body, prevent_cse=False)
        case "dots":
            saved = jax.checkpoint_policies.save_only_these_names(PRODUCT_NAME, OUT_NAME)
            return jax.checkpoint(body, prevent_cse=False, policy=saved)
