"""Linear layers of one input, whose weights may be split over devices (tensor parallelism).

    rows split       q, k, v; gate, up    of the whole input a device makes its part of each output
    columns split    o; down              of its part of the input a device makes its part of the sum that is the output

The way back mirrors it: where rows are split, a device has its part of the sum that is the gradient of the input. XLA's
partitioner would add up each layer's over the devices, and then the layers. Here a device adds up its layers first, and
one sum travels (f and g of Megatron-LM, arXiv:1909.08053). So in a decoder layer the hidden states travel four times,
twice on the way forward and twice back. Of LoRA's factors, those that no device has a part of, A where rows are split
and B where columns are, have their gradients added up beside them: the numbers of r tokens, for each layer.
"""

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from lodos.nn.linear import LinearLike
from lodos.sharding import axes_of_spec, computed_spec, partition_specs, partitioned_axes

Keys = Sequence[PRNGKeyArray | None]


def product(
    layer: LinearLike, x: Float[Array, "tokens in"], key: PRNGKeyArray | None = None
) -> Float[Array, "tokens out"]:
    """`layer(x, key=key)`, as `products`."""
    return products([layer], x, [key])[0]


def products(layers: Sequence[LinearLike], x: Float[Array, "tokens in"], keys: Keys) -> list[Float[Array, "tokens _"]]:
    """`[layer(x, key=key) for ...]`, and just that where the mesh splits none of their weights."""
    splits = [computed_spec(layer.axes, (layer.out_features, layer.in_features)) for layer in layers]
    found = {}
    for split in dict.fromkeys(splits):  # in an order that is the same on all hosts
        places = [place for place, other in enumerate(splits) if other == split]
        outputs = _alike([layers[place] for place in places], x, [keys[place] for place in places], split)
        found |= zip(places, outputs, strict=True)
    return [found[place] for place in range(len(layers))]


def fused_products(
    layer: LinearLike, parts: Sequence[tuple[str, int]], x: Float[Array, "tokens in"], key: PRNGKeyArray | None
) -> list[Float[Array, "tokens _"]]:
    """The output of a layer whose weight is several, row under row, in its parts.

    Where the mesh splits any of them, each is a layer of its own, since equal shares of the whole would be of unequal
    meaning. Those of LoRA have one A, and one dropout before it.

    Args:
        parts: the name of each part's axis and its size, from the first row on.
    """
    stops = list(itertools.accumulate(size for _, size in parts))
    if not any(axes_of_spec(computed_spec((axis, None), (size, layer.in_features))) for axis, size in parts):
        return jnp.split(product(layer, x, key), stops[:-1], axis=-1)
    bounds = zip([0, *stops], stops, parts, strict=False)
    return products([layer.rows(start, stop, axis) for start, stop, (axis, _) in bounds], x, [key] * len(parts))


def _alike(layers: Sequence[LinearLike], x: Array, keys: Keys, split: PartitionSpec) -> list[Array]:
    """The same for layers whose weights are all split as `split` says."""
    rows, columns = split
    over = axes_of_spec(split)
    if not over:
        return [layer(x, key=key) for layer, key in zip(layers, keys, strict=True)]
    kept = [layer.kept(x, key) for layer, key in zip(layers, keys, strict=True)]
    arrays, static = eqx.partition(list(layers), eqx.is_array)
    # Nothing else of them is split here, such as the rank of factors.
    names = [{name: part for name, part in zip(layer.axes, split, strict=True) if part} for layer in layers]
    of_layers = [partition_specs(own, mapping) for own, mapping in zip(arrays, names, strict=True)]
    tokens = tuple(axis for axis in axes_of_spec(computed_spec(("tokens",), x.shape[:1])) if axis not in over)
    in_specs = (PartitionSpec(tokens, columns), PartitionSpec(tokens, columns), of_layers)

    def own(spec: PartitionSpec, whole: PyTree) -> PyTree:
        others = tuple(axis for axis in (*over, *tokens) if axis not in axes_of_spec(spec))
        return jax.lax.pcast(whole, others, to="varying")

    def on_each(*given: PyTree) -> list[Array]:
        # What is not split is each device's own from here on: what comes back of it is added up here, once.
        x, kept, arrays = jax.tree.map(own, in_specs, given, is_leaf=lambda node: isinstance(node, PartitionSpec))
        made = [layer.product(x, k) for layer, k in zip(eqx.combine(arrays, static), kept, strict=True)]
        return jax.lax.psum(made, columns) if columns else made

    axes = partitioned_axes()
    run = jax.shard_map(on_each, in_specs=in_specs, out_specs=PartitionSpec(tokens, rows), axis_names=axes)
    return [layer.finish(part) for layer, part in zip(layers, run(x, kept, arrays), strict=True)]
