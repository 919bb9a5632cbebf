"""Where arrays live on a mesh of devices, decided by the names of their axes.

Every module names the logical axes of its own arrays (`logical_axes`), never a mesh axis:

    Linear.weight  ("mlp", "embed")        stacked: ("layers", "mlp", "embed")

One mapping sends names to mesh axes. `{"embed": "data"}` stores each parameter in shards along its embed axis
(FSDP); `{"mlp": "model", "heads": "model"}` is tensor parallelism; `{}` leaves every device a full copy. XLA's
partitioner inserts the communication, so a mapping changes speed and memory, never a value.

The mesh itself is JAX's ambient one (`jax.set_mesh`), entered with `with device_mesh:`.
"""

import contextvars
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import numpy as np
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


class DeviceMesh:
    """A `jax.sharding.Mesh` that is entered with `with`, as often as wanted."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self._entered: list[ExitStack] = []

    def __enter__(self) -> Mesh:
        stack = ExitStack()
        stack.enter_context(jax.set_mesh(self.mesh))
        self._entered.append(stack)
        return self.mesh

    def __exit__(self, *exc: Any) -> None:
        self._entered.pop().close()


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
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    taken: set[str] = set()
    spec: list[str | tuple[str, ...] | None] = []
    for name, size in zip(names, shape, strict=True):
        target = mapping.get(name) if name is not None else None
        axes = (target,) if isinstance(target, str) else tuple(target or ())
        shards = 1
        for axis in axes:
            shards *= sizes.get(axis, 1)
        fits = shards > 1 and size % shards == 0 and not taken & set(axes)
        if fits:
            taken |= set(axes)
        spec.append(target if fits else None)
    return PartitionSpec(*spec)


def partition_specs(tree: PyTree, mapping: AxisMapping) -> PyTree:
    """The tree of `PartitionSpec`s of the arrays of `tree`; arrays that nobody names are whole.

    Works on a model, on gradients and on an optimizer's state, whose moments are trees of the model's modules.
    """

    def spec(path: tuple[Any, ...], leaf: Any) -> PartitionSpec | None:
        if not eqx.is_array_like(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct):
            return None
        names = _axis_names(tree, path)
        shape = leaf.shape if hasattr(leaf, "shape") else ()
        if names is None or len(names) > len(shape):
            return PartitionSpec()
        if len(names) < len(shape):
            names = (*["layers"] * (len(shape) - len(names)), *names)
        return partition_spec(names, shape, mapping)

    return jax.tree_util.tree_map_with_path(spec, tree)


def named_shardings(tree: PyTree, mapping: AxisMapping, mesh: Mesh) -> PyTree:
    """The tree of `NamedSharding`s of the arrays of `tree` on `mesh`."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        partition_specs(tree, mapping),
        is_leaf=lambda node: isinstance(node, PartitionSpec),
    )


def shard(tree: PyTree, mapping: AxisMapping) -> PyTree:
    """Inside `jit`: asks XLA to lay out the arrays of `tree` by `mapping`. Without a mesh it does nothing."""
    if not jax.sharding.get_abstract_mesh().shape:
        return tree
    arrays, rest = eqx.partition(tree, eqx.is_array)
    specs = partition_specs(arrays, mapping)
    return eqx.combine(jax.tree.map(jax.lax.with_sharding_constraint, arrays, specs), rest)


def constrain(x: Array, *names: str | None) -> Array:
    """Inside `jit`: lays out an activation by the names of its axes; nothing outside `compute_axis_mapping`."""
    mapping = _compute_mapping.get()
    if mapping is None or not jax.sharding.get_abstract_mesh().shape:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(names, x.shape, mapping))


def shard_count(name: str, size: int) -> int:
    """Inside `compute_axis_mapping`: over how many devices an axis of this name and size is split."""
    mapping = _compute_mapping.get()
    axes = None if mapping is None else partition_spec((name,), (size,), mapping)[0]
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))


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
        return jax.shard_map(fn, in_specs=specs, out_specs=out_spec, check_vma=False)(*args)

    return run


def constrain_parameters(tree: PyTree) -> PyTree:
    """Inside `jit`: gathers parameters from their storage layout to the one they are computed with."""
    mapping = _compute_mapping.get()
    return tree if mapping is None else shard(tree, mapping)


def named_jit(
    fn: Callable[..., Any] | None = None,
    *,
    axis_resources: AxisMapping | None = None,
    donate_args: bool | Sequence[bool] = (),
) -> Callable[..., Any]:
    """`jax.jit` for functions over modules, whose outputs are laid out by the names of their axes.

    Args:
        axis_resources: maps axis names to mesh axes for the outputs; None leaves the layout to XLA.
        donate_args: for each positional argument whether its buffers may be reused; one boolean is for all.

    Arguments may hold anything: arrays are traced, the rest is static and has to be hashable. Usable as a decorator
    with or without arguments. It returns when the computation is dispatched, as `jax.jit` does; `eqx.filter_jit`
    would wait for its end.
    """
    if fn is None:
        return functools.partial(named_jit, axis_resources=axis_resources, donate_args=donate_args)

    def run(kept: Sequence[Any], donated: Sequence[Any], static: tuple[Any, Sequence[_Constant | None]]) -> Any:
        structure, constants = static
        leaves = [
            constant.value if constant is not None else array if array is not None else other
            for array, other, constant in zip(kept, donated, constants, strict=True)
        ]
        args, kwargs = jax.tree.unflatten(structure, leaves)
        out = fn(*args, **kwargs)
        arrays, rest = eqx.partition(out if axis_resources is None else shard(out, axis_resources), eqx.is_array)
        return arrays, _Static(rest)

    run.__name__ = getattr(fn, "__name__", "run")  # what profiles and JAX's own messages call it
    jitted = jax.jit(run, donate_argnums=1, static_argnums=2)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        flags = [donate_args] * len(args) if isinstance(donate_args, bool) else list(donate_args)
        flags += [False] * (len(args) - len(flags))
        leaves, structure = jax.tree.flatten((args, kwargs))
        donate = [flag for arg, flag in zip(args, flags, strict=True) for _ in jax.tree.leaves(arg)]
        donate += [False] * (len(leaves) - len(donate))
        is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
        marked = list(zip(leaves, is_array, donate, strict=True))
        kept = [leaf if array and not flag else None for leaf, array, flag in marked]
        donated = [leaf if array and flag else None for leaf, array, flag in marked]
        constants = tuple(None if array else _Constant(type(leaf), leaf) for leaf, array, _ in marked)
        with warnings.catch_warnings():
            # An argument is donated for what can be reused of it.
            warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
            arrays, rest = jitted(kept, donated, (structure, constants))
        return eqx.combine(arrays, rest.value)

    return call


@dataclasses.dataclass(frozen=True)
class _Constant:
    """A leaf that is no array; 1, 1.0 and True are different ones."""

    kind: type
    value: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    """What a jitted function returns besides arrays."""

    value: Any


def _axis_names(tree: PyTree, path: tuple[Any, ...]) -> tuple[str, ...] | None:
    """What the module that owns the leaf at `path` calls the leaf's axes; None if nobody names them."""
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
    return owner.logical_axes().get(field)
