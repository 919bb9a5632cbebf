"""Where arrays live on a mesh of devices, decided by the names of their axes.

Every module names the logical axes of its own arrays (`logical_axes`), never a mesh axis:

    Linear.weight  ("mlp", "embed")        stacked: ("layers", "mlp", "embed")

One mapping sends names to mesh axes. `{"embed": "data"}` stores each parameter in shards along its embed axis
(FSDP); `{"mlp": "model", "heads": "model"}` is tensor parallelism; `{}` leaves every device a full copy. XLA's
partitioner inserts the communication, so a mapping changes speed and memory, never a value.

The mesh itself is JAX's ambient one (`jax.set_mesh`), entered with `with device_mesh:`.
"""

import contextvars
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

AxisMapping = Mapping[str, str | tuple[str, ...] | None]

_compute_mapping: contextvars.ContextVar[AxisMapping | None] = contextvars.ContextVar("compute_mapping", default=None)


@runtime_checkable
class NamedAxes(Protocol):
    """A module that names the axes of its arrays."""

    def logical_axes(self) -> Mapping[str, tuple[str, ...]]:
        """The axis names of each array field, without the leading `layers` of a stack."""
        ...


@runtime_checkable
class FusedAxes(Protocol):
    """A module with a weight that is several, row under row."""

    def part_axes(self) -> Sequence[tuple[str, int]]:
        """The name and size of each part's axis, in their order."""
        ...


FUSED_AXES = {"qkv": "heads", "gate_up": "mlp"}
"""The axes of such weights, and the part's by which they are stored in shards: they are computed part by part."""


class DeviceMesh:
    """A `jax.sharding.Mesh` that is entered with `with`, as often as wanted and in any thread."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self._entered = _Entered()

    def __enter__(self) -> Mesh:
        stack = ExitStack()
        stack.enter_context(jax.set_mesh(self.mesh))
        self._entered.stacks.append(stack)
        return self.mesh

    def __exit__(self, *exc: Any) -> None:
        self._entered.stacks.pop().close()


class _Entered(threading.local):
    """A thread's ambient mesh is its own."""

    def __init__(self) -> None:
        self.stacks: list[ExitStack] = []


@contextmanager
def compute_axis_mapping(mapping: AxisMapping) -> Iterator[None]:
    """Within it, `constrain` sends axis names to mesh axes by `mapping`."""
    token = _compute_mapping.set(mapping)
    try:
        yield
    finally:
        _compute_mapping.reset(token)


def partition_spec(names: Sequence[str | None], shape: Sequence[int], mapping: AxisMapping) -> PartitionSpec:
    """The spec of an array whose axes are called `names`, on the ambient mesh.

    An axis stays whole if the mapping does not name it, if the mesh axis does not divide its size, or if an
    earlier axis of the same array has taken the mesh axis.
    """
    sizes = jax.sharding.get_abstract_mesh().shape
    taken: set[str] = set()
    spec: list[str | tuple[str, ...] | None] = []
    for name, size in zip(names, shape, strict=True):
        axes = () if name is None else mesh_axes(name, mapping)
        shards = math.prod(sizes[axis] for axis in axes)
        fits = shards > 1 and size % shards == 0 and not taken & set(axes)
        if fits:
            taken |= set(axes)
        spec.append(None if not fits else axes[0] if len(axes) == 1 else axes)
    return PartitionSpec(*spec)


def mesh_axes(name: str, mapping: AxisMapping) -> tuple[str, ...]:
    """The axes of the ambient mesh to which `mapping` sends a name.

    Inside `jax.shard_map` only those that it left to XLA's partitioner: along the others each device has its part.
    """
    target, mesh = mapping.get(name), jax.sharding.get_abstract_mesh()
    axes = (target,) if isinstance(target, str) else tuple(target or ())
    return tuple(axis for axis in axes if axis in mesh.shape and axis not in mesh.manual_axes)


def partition_specs(tree: PyTree, mapping: AxisMapping) -> PyTree:
    """The tree of `PartitionSpec`s of the arrays of `tree`; arrays that nobody names are whole.

    Works on a model, on gradients and on an optimizer's state, whose moments are trees of the model's modules.
    """

    def spec(path: tuple[Any, ...], leaf: Any) -> PartitionSpec | None:
        if not eqx.is_array_like(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct):
            return None
        names = _axis_names(tree, path, leaf)
        return PartitionSpec() if names is None else partition_spec(names, leaf.shape, mapping)

    return jax.tree_util.tree_map_with_path(spec, tree)


def axis_sizes(tree: PyTree) -> dict[str, set[int]]:
    """How long each axis is, by the name that the modules of `tree` give it. Shapes will do."""
    sizes: dict[str, set[int]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        for name, size in zip(_axis_names(tree, path, leaf) or (), getattr(leaf, "shape", ()), strict=False):
            sizes.setdefault(name, set()).add(size)
    for node in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, FusedAxes)):
        for name, size in node.part_axes() if isinstance(node, FusedAxes) else ():
            sizes.setdefault(name, set()).add(size)
    return sizes


def named_shardings(tree: PyTree, mapping: AxisMapping, mesh: Mesh) -> PyTree:
    """The tree of `NamedSharding`s of the arrays of `tree` on `mesh`."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        partition_specs(tree, mapping),
        is_leaf=lambda node: isinstance(node, PartitionSpec),
    )


def shard(tree: PyTree, mapping: AxisMapping) -> PyTree:
    """Inside `jit`: asks XLA to lay out the arrays of `tree` by `mapping`. Without a mesh it does nothing."""
    if not partitioned_axes():
        return tree
    arrays, rest = eqx.partition(tree, eqx.is_array)
    specs = partition_specs(arrays, mapping)
    return eqx.combine(jax.tree.map(jax.lax.with_sharding_constraint, arrays, specs), rest)


def constrain(x: Array, *names: str | None) -> Array:
    """Inside `jit`: lays out an activation by the names of its axes; nothing outside `compute_axis_mapping`."""
    mapping = _compute_mapping.get()
    if mapping is None or not partitioned_axes():
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(names, x.shape, mapping))


def computed_spec(names: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec:
    """Inside `compute_axis_mapping`: the spec of an array that is computed with; whole outside."""
    return partition_spec(names, shape, _compute_mapping.get() or {})


def shard_count(name: str, size: int) -> int:
    """Inside `compute_axis_mapping`: over how many devices an axis of this name and size is split."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in axes_of_spec(computed_spec((name,), (size,))))


def axes_of_spec(spec: PartitionSpec) -> tuple[str, ...]:
    """The mesh axes that a spec names."""
    return tuple(axis for part in spec for axis in ((part,) if isinstance(part, str) else part or ()))


def on_each_device(
    fn: Callable[..., Array], *, in_axes: Sequence[Sequence[str | None]], out_axes: Sequence[str | None]
) -> Callable[..., Array]:
    """Inside `jit`: `fn` on each device's share of its arguments, for what XLA's partitioner does not see into.

    Args:
        in_axes: the axis names of each argument.
        out_axes: those of the result, which is as large as the first argument.

    Outside `compute_axis_mapping`, or where nothing is shared out, it is `fn` itself.
    """
    mapping = _compute_mapping.get()

    def run(*args: Array) -> Array:
        if mapping is None:
            return fn(*args)
        specs = tuple(partition_spec(names, arg.shape, mapping) for names, arg in zip(in_axes, args, strict=True))
        if not any(part for spec in specs for part in spec):
            return fn(*args)
        out_spec = partition_spec(out_axes, args[0].shape, mapping)
        axes = partitioned_axes()
        return jax.shard_map(fn, in_specs=specs, out_specs=out_spec, axis_names=axes, check_vma=False)(*args)

    return run


def constrain_parameters(tree: PyTree) -> PyTree:
    """Inside `jit`: gathers parameters from their storage layout to the one they are computed with."""
    mapping = _compute_mapping.get()
    return tree if mapping is None else shard(tree, mapping)


def partitioned_axes() -> set[str]:
    """The axes of the ambient mesh that XLA's partitioner has to do with."""
    mesh = jax.sharding.get_abstract_mesh()
    return set(mesh.axis_names) - set(mesh.manual_axes)


def _axis_names(tree: PyTree, path: tuple[Any, ...], leaf: Any) -> tuple[str, ...] | None:
    """What the module that owns the leaf at `path` calls the leaf's axes, all of them; None if nobody names them."""
    owner, field = None, None
    node = tree
    for key in path:
        match key:
            case jax.tree_util.GetAttrKey(name=name):
                owner, field, node = node, name, getattr(node, name)
            case jax.tree_util.SequenceKey(idx=index):
                owner, node = None, node[index]
            case jax.tree_util.DictKey(key=name):
                owner, node = None, node[name]
            case _:
                return None
    if not isinstance(owner, NamedAxes) or field is None:
        return None
    names, dimensions = owner.logical_axes().get(field), len(getattr(leaf, "shape", ()))
    if names is None or len(names) > dimensions:
        return None
    return (*["layers"] * (dimensions - len(names)), *names)
