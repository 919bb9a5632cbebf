"""Equal layers as one layer with a leading axis, run by `jax.lax.scan`; unlike ones as a period that comes again.

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
from lodos.nn.dropout import split_key
from lodos.nn.linear import PRODUCT_NAME
from lodos.shares import holds_shards, layer_parameters

GradientCheckpointing = Literal["auto", "none", "dots", "full"]
"""What the backward pass recomputes: `none`, nothing; `full`, everything but each layer's input; `dots`, all but the
products of activations and weights and the output of attention: norms, activations and rotations cost little to make
again. A model does not know what memory there is, so to it `auto` is `dots`."""


_READS = frozenset(
    {"dynamic_slice", "squeeze", "transpose", "convert_element_type", "sharding_constraint", "all_gather"}
)
"""The primitives by which a layer's weights come from the stack."""


@runtime_checkable
class PartOfStack(Protocol):
    """A module that is not the same in all layers of a stack."""

    @property
    def first_layer(self) -> int:
        """The lowest layer in which it has anything to train."""
        ...

    def in_layers(self, start: int, stop: int) -> eqx.Module:
        """The part of the stack from layer `start` to `stop`. Arrays that may be large are left whole."""
        ...


class Period(eqx.Module):
    """Unlike layers that follow one another, again and again where it is stacked."""

    members: dict[str, Any]
    """The layers by `member_name`: `1+6*` is stacked of layers 1, 7, 13 and on."""

    @property
    def in_order(self) -> list[Any]:
        """The layers from the lowest, which is not the order of names."""
        return [self.members[name] for name in sorted(self.members, key=lambda name: int(name.split("+")[0]))]


class Stacked(eqx.Module):
    """`num_layers` layers of one shape, or of a few that follow one another again and again."""

    stacked: Any
    """The layer, every array with a leading `layers` axis; or the `Period`, with an axis of its repeats."""
    num_layers: int = eqx.field(static=True)
    scan: bool = eqx.field(static=True, default=True)
    """Run with `lax.scan`; False unrolls the loop: a slower compilation, rarely a faster step."""
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
            key: one, or one for each row of a batch; split into as many for each layer, so that no two layers drop the
                same elements.

        Returns:
            The last `x`, and the layers' `out` stacked.
        """
        keys = None if key is None else split_key(key, self.num_layers)
        return self.fold_with_keys(apply, x, per_layer, keys)

    def fold_with_keys(
        self, apply: Callable[..., tuple[Array, PyTree]], x: Array, per_layer: PyTree, keys: PRNGKeyArray | None
    ) -> tuple[Array, PyTree]:
        """The same with the keys of the layers."""
        of_repeats = self._by_repeat((per_layer, keys))
        outs = []
        first = self.first_layer // self.period
        boundaries = [0, self.repeats] if first == 0 else [0, first, self.repeats]
        for start, stop in pairwise(boundaries):
            x, out = self._run(start, stop, apply, x, *of_repeats)
            outs.append(out)
        out = outs[0] if len(outs) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outs)
        return x, self._by_layer(out)

    @property
    def period(self) -> int:
        """After how many layers they are of the same shape again."""
        return len(self.stacked.members) if isinstance(self.stacked, Period) else 1

    @property
    def repeats(self) -> int:
        return self.num_layers // self.period

    @property
    def first_layer(self) -> int:
        """The lowest layer in which a part of the stack has anything to train, or the lowest of its period; 0 without
        such parts.

        Below it nothing is differentiated. In one `scan` with the layers above it JAX could not know, so the two are
        folded one after the other. (In that first layer itself, and its period, all is differentiated.)
        """
        return min((part.first_layer for part in _parts(self.stacked)), default=0) * self.period

    def _by_repeat(self, per_layer: PyTree) -> PyTree:
        """`[layers, ...]` as `[repeats, period, ...]` where layers are unlike."""
        if not isinstance(self.stacked, Period):
            return per_layer
        shape = (self.repeats, self.period)
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), per_layer)

    def _by_layer(self, per_repeat: PyTree) -> PyTree:
        if not isinstance(self.stacked, Period):
            return per_repeat
        return jax.tree.map(lambda leaf: leaf.reshape(self.num_layers, *leaf.shape[2:]), per_repeat)

    def _run(
        self,
        start: int,
        stop: int,
        apply: Callable[..., Any],
        x: Array,
        per_layer: PyTree,
        keys: Array | None,
    ) -> tuple[Array, PyTree]:
        """The layers from `start` to `stop`; of unlike ones, the repeats."""
        is_part = stop - start < self.repeats
        layers = _in_layers(self.stacked, start, stop) if is_part else self.stacked
        arrays, static = eqx.partition(layers, eqx.is_array)
        # XLA would copy a slice of the weights. What is left whole is read layer by layer, as `scan` reads its inputs.
        whole, sliced = eqx.partition(arrays, lambda leaf: is_part and leaf.shape[0] == self.repeats)
        inputs = jax.tree.map(lambda leaf: leaf[start:stop], (per_layer, keys)) if is_part else (per_layer, keys)

        def body(x: Array, of_layer: Any) -> tuple[Array, PyTree]:
            index, layer_arrays, (layer_inputs, layer_key) = of_layer
            layer = layer_parameters(eqx.combine(_weights_of_layer(whole, index), layer_arrays, static))
            if not isinstance(layer, Period):
                return apply(layer, x, layer_inputs, layer_key)
            outs = []
            for place, member in enumerate(layer.in_order):
                inputs, key = jax.tree.map(lambda leaf, place=place: leaf[place], (layer_inputs, layer_key))
                x, out = apply(member, x, inputs, key)
                outs.append(out)
            return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)

        body = _checkpointed(body, self.gradient_checkpointing, reads_weights=is_part or holds_shards(layers))
        if self.scan:
            return jax.lax.scan(body, x, (jnp.arange(start, stop), sliced, inputs))
        outs = []
        for index in range(stop - start):
            of_layer = jax.tree.map(lambda leaf, index=index: leaf[index], (sliced, inputs))
            x, out = body(x, (start + index, *of_layer))
            outs.append(out)
        return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)


class Stacks(eqx.Module):
    """Stacks that follow one another."""

    stacks: tuple[Stacked, ...]

    @property
    def num_layers(self) -> int:
        return sum(stack.num_layers for stack in self.stacks)

    @property
    def first_layer(self) -> int:
        """As that of a stack."""
        below = 0
        for stack in self.stacks:
            if _parts(stack.stacked):
                return below + stack.first_layer
            below += stack.num_layers
        return 0

    def fold(
        self,
        apply: Callable[[Any, Array, PyTree, PRNGKeyArray | None], tuple[Array, PyTree]],
        x: Array,
        per_layer: PyTree,
        *,
        key: PRNGKeyArray | None,
    ) -> tuple[Array, PyTree]:
        """As that of a stack."""
        keys = None if key is None else split_key(key, self.num_layers)
        outs, start = [], 0
        for stack in self.stacks:
            stop = start + stack.num_layers
            own = jax.tree.map(lambda leaf, start=start, stop=stop: leaf[start:stop], (per_layer, keys))
            x, out = stack.fold_with_keys(apply, x, *own)
            outs.append(out)
            start = stop
        return x, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outs)


def _parts(layers: PyTree) -> list[PartOfStack]:
    return [node for node in jax.tree.leaves(layers, is_leaf=_is_partial) if _is_partial(node)]


def _is_partial(node: object) -> bool:
    return isinstance(node, PartOfStack)


def _in_layers(layers: eqx.Module, start: int, stop: int) -> eqx.Module:
    return jax.tree.map(
        lambda node: node.in_layers(start, stop) if _is_partial(node) else node, layers, is_leaf=_is_partial
    )


def _weights_of_layer(stacks: PyTree, index: int | Array) -> PyTree:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), stacks)


def _keeps_what_is_computed(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy of `jax.checkpoint`: all but what is only read, or else each layer's weights would be kept once more."""
    return primitive.name not in _READS


def _checkpointed(
    body: Callable[..., Any], policy: GradientCheckpointing, *, reads_weights: bool
) -> Callable[..., Any]:
    """`body`, keeping what the policy says; `reads_weights` of a stack, which are never kept."""
    match policy:
        case "none":
            if not reads_weights:
                return body
            return jax.checkpoint(body, prevent_cse=False, policy=_keeps_what_is_computed)
        case "full":
            return jax.checkpoint(body, prevent_cse=False)
        case "dots" | "auto":
            saved = jax.checkpoint_policies.save_only_these_names(PRODUCT_NAME, OUT_NAME)
            return jax.checkpoint(body, prevent_cse=False, policy=saved)
