"""Each device computes its own rows of the batch, and what travels between devices is what is written here.

    base       a device holds a shard of each frozen parameter; of a stack it gathers one layer at a time
    trained    gathered once a step; every device then has a gradient of its own, over its own rows
    result     added up over the devices, once

So a device is to the sum what a microbatch is: one share of the batch more. Left to XLA's partitioner, the gradients
of every layer of every microbatch would be summed over all devices as soon as they are there.

Only the axes that share the batch are taken out of XLA's hands. The others, such as those over which a layer is split,
stay with its partitioner.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree

from lodos.sharding import AxisMapping, constrain_parameters, mesh_axes, partition_specs
from lodos.tree import STACKED


class StoredShard(eqx.Module):
    """A device's shard of a parameter of stacked layers, in the parameter's place."""

    shard: Array
    spec: PartitionSpec = eqx.field(static=True)
    """How the parameter is stored."""

    def whole(self) -> Array:
        """The parameter, or the layer of it that `shard` was cut to, gathered over the axes that share the batch."""
        mesh = jax.sharding.get_abstract_mesh()
        parts = [_names(part) for part in self.spec[len(self.spec) - self.shard.ndim :]]

        def gather(x: Array) -> Array:
            for axis, names in enumerate(parts):
                if over := tuple(name for name in names if name in mesh.manual_axes):
                    x = jax.lax.all_gather(x, over, axis=axis, tiled=True)
            return x

        others = tuple(name for name in mesh.axis_names if name not in mesh.manual_axes)
        rest = [[name for name in names if name in others] for names in parts]
        is_mixed = any(0 < len(left) < len(names) for left, names in zip(rest, parts, strict=True))
        if is_mixed or not any(rest):
            return gather(self.shard)
        # XLA's partitioner would gather it over the other axes as well.
        spec = PartitionSpec(*(tuple(left) or None for left in rest))
        run = jax.shard_map(gather, in_specs=spec, out_specs=spec, axis_names=set(others), check_vma=False)
        return run(self.shard)


def holds_shards(tree: PyTree) -> bool:
    """Whether `layer_parameters` would gather anything of it."""
    return any(_is_shard(node) for node in jax.tree.leaves(tree, is_leaf=_is_shard))


def layer_parameters(tree: PyTree) -> PyTree:
    """Inside `jit`: a layer's parameters in the layout they are computed with, gathered from that of their storage."""
    whole = jax.tree.map(lambda node: node.whole() if _is_shard(node) else node, tree, is_leaf=_is_shard)
    return constrain_parameters(whole)


def shares_batch(batch: PyTree, trainable: PyTree, frozen: PyTree, compute: AxisMapping, stored: AxisMapping) -> bool:
    """Inside `jit`: whether `sum_over_shares` can be, and is what should be done.

    Not on one device; nor where its rows are not shared out evenly. Nor where most of the model is trained and stored
    in shards: gradients of its own for all of it are what a device has no memory for. Always where devices share rows.
    """
    axes, parts = mesh_axes("batch", compute), mesh_axes("seq", compute)
    count = _size_of(axes)
    if parts:  # XLA's partitioner cannot do it
        return True
    if count == 1 or axes != mesh_axes("tokens", compute):
        return False
    if any(leaf.ndim == 0 or leaf.shape[0] % count for leaf in jax.tree.leaves(batch)):
        return False
    is_sharded = any(_over(spec, axes) for spec in _specs(trainable, stored))
    return not is_sharded or _numbers(trainable) < _numbers(frozen)


def sum_over_shares(
    fn: Callable[..., PyTree],
    frozen: PyTree,
    trainable: PyTree,
    batch: PyTree,
    *whole: PyTree,
    compute: AxisMapping,
    stored: AxisMapping,
) -> PyTree:
    """Inside `jit`: `fn(frozen, trainable, rows, *whole)` of each device's rows of the batch, added up.

    Args:
        whole: what every device has all of.
        compute: whose `batch` names the mesh axes that share the batch, and `seq` those that share each row's tokens.
        stored: how `frozen` and `trainable` are stored.
    """
    rows_over, tokens_over = mesh_axes("batch", compute), mesh_axes("seq", compute)
    axes = rows_over + tokens_over
    shards, rest = eqx.partition(frozen, eqx.is_array)
    specs = partition_specs(shards, stored)
    own_specs = jax.tree.map(lambda spec: _only(spec, axes), specs, is_leaf=_is_spec)

    def share(shards: PyTree, trainable: PyTree, rows: PyTree, whole: Sequence[PyTree]) -> PyTree:
        held = jax.tree_util.tree_map_with_path(functools.partial(_held, axes), shards, specs)
        return jax.lax.psum(fn(eqx.combine(rest, held), trainable, rows, *whole), axes)

    everywhere, by_rows = PartitionSpec(), PartitionSpec(rows_over)
    if tokens_over:
        by_tokens = PartitionSpec(rows_over, tokens_over)
        by_rows = jax.tree.map(lambda leaf: by_rows if leaf.ndim == 1 else by_tokens, batch)
    run = jax.shard_map(
        share,
        in_specs=(own_specs, everywhere, by_rows, everywhere),
        out_specs=everywhere,
        axis_names=_manual(axes),
        check_vma=False,
    )
    return run(shards, trainable, batch, whole)


def _held(axes: tuple[str, ...], path: tuple[Any, ...], shard: Array, spec: PartitionSpec) -> Any:
    """What stands for a frozen parameter: it or, of stacked layers, the shard, gathered layer by layer as they run."""
    if not _over(spec, axes):
        return shard
    stored = StoredShard(shard, spec)
    is_stacked = any(getattr(key, "name", None) == STACKED for key in path)
    return stored if is_stacked else stored.whole()


def _manual(axes: tuple[str, ...]) -> set[str]:
    """`axes`; with nothing to do for XLA's partitioner all axes of the mesh, so that it has no part in it at all."""
    mesh = jax.sharding.get_abstract_mesh()
    others = set(mesh.axis_names) - set(axes)
    return set(axes) if any(mesh.shape[axis] > 1 for axis in others) else set(mesh.axis_names)


def _specs(tree: PyTree, mapping: AxisMapping) -> list[PartitionSpec]:
    return jax.tree.leaves(partition_specs(tree, mapping), is_leaf=_is_spec)


def _only(spec: PartitionSpec, axes: tuple[str, ...]) -> PartitionSpec:
    """Of a spec what concerns these mesh axes."""
    return PartitionSpec(*(tuple(axis for axis in _names(part) if axis in axes) or None for part in spec))


def _over(spec: PartitionSpec, axes: tuple[str, ...]) -> bool:
    return any(axis in axes for part in spec for axis in _names(part))


def _names(part: Any) -> tuple[str, ...]:
    return (part,) if isinstance(part, str) else tuple(part or ())


def _size_of(axes: tuple[str, ...]) -> int:
    return math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in axes)


def _numbers(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf))


def _is_spec(node: object) -> bool:
    return isinstance(node, PartitionSpec)


def _is_shard(node: object) -> bool:
    return isinstance(node, StoredShard)
