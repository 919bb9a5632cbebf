"""Linear layers of one input, whose weights may be split over devices (tensor parallelism).

    rows split       q, k, v; gate, up    of the whole input a device makes its part of each output
    columns split    o; down              of its part of the input a device makes its part of the sum that is the output

The way back mirrors it: where rows are split, a device has its part of the sum that is the gradient of the input. XLA's
partitioner would add up each layer's over the devices, and then the layers. Here a device adds up its layers first, and
one sum travels (f and g of Megatron-LM, arXiv:1909.08053). So in a decoder layer the hidden states travel four times,
twice on the way forward and twice back. Of LoRA's factors, those that no device has a part of, A where rows are split
and B where columns are, have their gradients added up beside them: the numbers of r tokens, for each layer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from lodos.nn.linear import LinearLike
from lodos.sharding import axes_of_spec, computed_spec, partition_specs

Key = PRNGKeyArray | None


def product(layer: LinearLike, x: Float[Array, "tokens in"], key: Key = None) -> Float[Array, "tokens out"]:
    """`layer(x, key=key)`, as `products`."""
    return products([layer], x, [key])[0]


def products(
    layers: Sequence[LinearLike], x: Float[Array, "tokens in"], keys: Sequence[Key]
) -> list[Float[Array, "tokens _"]]:
    """`[layer(x, key=key) for ...]`, and just that where nothing of their weights is split."""
    splits = [computed_spec(layer.axes, (layer.out_features, layer.in_features)) for layer in layers]
    by_rows = [place for place, (rows, columns) in enumerate(splits) if rows and not columns]
    made = _of_whole_input(x, *([each[place] for place in by_rows] for each in (layers, keys, splits)))
    found = dict(zip(by_rows, made, strict=True))
    for place, (layer, key, split) in enumerate(zip(layers, keys, splits, strict=True)):
        if place not in found:
            found[place] = _of_split_input(x, layer, key, split) if split[1] else layer(x, key=key)
    return [found[place] for place in range(len(layers))]


def _of_whole_input(
    x: Array, layers: Sequence[LinearLike], keys: Sequence[Key], splits: Sequence[PartitionSpec]
) -> list[Array]:
    def run(layers: Sequence[LinearLike], x: Array, keys: Sequence[Key]) -> list[Array]:
        return [layer.product(layer.inputs(x, key=key)) for layer, key in zip(layers, keys, strict=True)]

    outs = [PartitionSpec(None, rows) for rows, _ in splits]
    made = _on_parts(run, layers, splits, (x, keys), (PartitionSpec(), PartitionSpec()), outs)
    return [layer.finish(part) for layer, part in zip(layers, made, strict=True)]


def _of_split_input(x: Array, layer: LinearLike, key: Key, split: PartitionSpec) -> Array:
    rows, columns = split

    def run(layers: Sequence[LinearLike], inputs: PyTree) -> Array:
        return jax.lax.psum(layers[0].product(inputs), columns)

    # Dropout tells features apart, and so has to see all of them.
    inputs = layer.inputs(x, key=key)
    made = _on_parts(run, [layer], [split], (inputs,), (PartitionSpec(None, columns),), PartitionSpec(None, rows))
    return layer.finish(made)


def _on_parts(
    run: Callable[..., PyTree],
    layers: Sequence[LinearLike],
    splits: Sequence[PartitionSpec],
    arguments: tuple[PyTree, ...],
    in_specs: tuple[PartitionSpec, ...],
    out_specs: PyTree,
) -> PyTree:
    """`run(layers, *arguments)` on each device, with its part of the layers.

    Only the mesh axes that split them are taken out of the hands of XLA's partitioner.
    """
    if not layers:
        return []
    arrays, static = eqx.partition(list(layers), eqx.is_array)
    specs = [
        # Nothing else of a layer is split here, such as the rank of its factors.
        partition_specs(own, {name: part for name, part in zip(layer.axes, split, strict=True) if part})
        for layer, split, own in zip(layers, splits, arrays, strict=True)
    ]
    over = set().union(*(axes_of_spec(split) for split in splits))

    in_specs = (specs, *in_specs)

    def own(spec: PartitionSpec, whole: PyTree) -> PyTree:
        return jax.lax.pcast(whole, tuple(over - set(axes_of_spec(spec))), to="varying")

    def on_each(*given: PyTree) -> PyTree:
        # Each device's own from here on, so that on the way back it is here that they are added up.
        arrays, *arguments = jax.tree.map(own, in_specs, given, is_leaf=lambda node: isinstance(node, PartitionSpec))
        return run(eqx.combine(arrays, static), *arguments)

    return jax.shard_map(on_each, in_specs=in_specs, out_specs=out_specs, axis_names=over)(arrays, *arguments)
