"""A trainer's state and batches on the devices; and, before there are any, their shapes and layouts.

Each is beside the other, since a step that is compiled for the shapes is used only if the arrays come as foretold.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree

from lodos.jit import named_jit
from lodos.sharding import named_shardings, partition_spec
from lodos.train.config import TrainerConfig
from lodos.train.precision import Policy
from lodos.train.state import TrainerState
from lodos.tree import cast_floating, combine, partition


def placed_state(
    key: PRNGKeyArray,
    model: PyTree,
    is_trainable: PyTree,
    optimizer: optax.GradientTransformation,
    config: TrainerConfig,
) -> TrainerState:
    """The state before the first step: trainable parameters in the policy's parameter dtype, frozen ones in its compute
    dtype, and the optimizer's own, laid out by the names of their axes."""
    mapping = config.parameter_axis_mapping
    with config.device_mesh as mesh:
        model = combine(*_in_policy_dtypes(model, is_trainable, config.policy))
        arrays, rest = eqx.partition(model, eqx.is_array)
        model = combine(jax.device_put(arrays, named_shardings(arrays, mapping, mesh)), rest)
        opt_state = named_jit(optimizer.init, axis_resources=mapping)(partition(model, is_trainable)[0])
        # On every device of the mesh from the start: a new layout at the second step would compile it again.
        everywhere = jax.jit(lambda *values: values, out_shardings=NamedSharding(mesh, PartitionSpec()))
        step, key = everywhere(jnp.zeros((), jnp.int32), key)
        return TrainerState(step, model, opt_state, key, is_trainable)


def state_shapes(
    key: PRNGKeyArray,
    model: PyTree,
    is_trainable: PyTree,
    optimizer: optax.GradientTransformation,
    config: TrainerConfig,
) -> TrainerState:
    """What `placed_state` makes of them, with `jax.ShapeDtypeStruct` for arrays, as `key` and `model` may have too."""

    def fresh(model: PyTree) -> tuple[PyTree, optax.OptState]:
        trainable, frozen = _in_policy_dtypes(model, is_trainable, config.policy)
        return combine(trainable, frozen), optimizer.init(trainable)

    with config.device_mesh as mesh:
        shapes, rest = eqx.partition(eqx.filter_eval_shape(fresh, model), _is_shape)
        shardings = named_shardings(shapes, config.parameter_axis_mapping, mesh)
        model, opt_state = combine(jax.tree.map(_shape, shapes, shardings), rest)
        everywhere = NamedSharding(mesh, PartitionSpec())
        step, key = (_shape(leaf, everywhere) for leaf in (np.zeros((), np.int32), key))
        return TrainerState(step, model, opt_state, key, is_trainable)


def placed_batch(batch: PyTree, config: TrainerConfig) -> PyTree:
    """The batch on the devices, its rows shared out among those of the axes that share it.

    With several hosts each brings its share of the rows, `config.batch_share`.
    """
    arrays = jax.tree.map(np.asarray, batch)

    def place(leaf: np.ndarray, shape: jax.ShapeDtypeStruct) -> Array:
        first = config.batch_share.index * len(leaf)

        def rows(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(shape.shape[0])
            assert first <= start <= stop <= first + len(leaf), "rows that this host was not asked to bring"
            return leaf[(slice(start - first, stop - first), *index[1:])]

        return jax.make_array_from_callback(shape.shape, shape.sharding, rows)

    return jax.tree.map(place, arrays, batch_shapes(arrays, config))


def batch_shapes(batch: PyTree, config: TrainerConfig) -> PyTree:
    """What `placed_batch` makes of them, with `jax.ShapeDtypeStruct` for arrays, as `batch` may have too."""
    with config.device_mesh as mesh:

        def shape(leaf: Any) -> jax.ShapeDtypeStruct:
            rows, *rest = leaf.shape
            size = (rows * config.batch_share.count, *rest)
            config.check_lengths(rest[:1])
            names = ("batch", *["seq", *[None] * len(rest)][: len(rest)])
            spec = partition_spec(names, size, config.compute_axis_mapping)
            return jax.ShapeDtypeStruct(size, leaf.dtype, sharding=NamedSharding(mesh, spec))

        return jax.tree.map(shape, batch)


def _in_policy_dtypes(model: PyTree, is_trainable: PyTree, policy: Policy) -> tuple[PyTree, PyTree]:
    """The trainable part and the frozen one."""
    trainable, frozen = partition(model, is_trainable)
    # A copy, because the step reuses the memory of what it trains, and the model is the caller's.
    trainable = jax.tree.map(lambda leaf: jnp.array(leaf, dtype=policy.param_dtype, copy=True), trainable)
    return trainable, cast_floating(frozen, policy.compute_dtype)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _shape(leaf: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
