"""Arrays that are spread over devices, and over hosts, on each host: whole, or some rows at a time.

Rows are sent by a compiled program in which each device puts what it holds of them in its place, zeros in those of
others, and all of that is added up, as integers of the same bits. So a host needs room for these rows and no more;
left to XLA's partitioner, a slice of an array that is split in that axis would be cut from the whole array.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lodos.row_slices import row_slices

_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}


def gathered(array: Any, index: int | None = None) -> np.ndarray:
    """An array, or layer `index` of a stack, whole on every host. All hosts call it, in the same order."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array if index is None else array[index])
    if array.is_fully_replicated and index is None:
        return np.asarray(array.addressable_data(0))
    whole = np.empty(array.shape if index is None else array.shape[1:], array.dtype)
    for part in row_slices(whole.shape, whole.itemsize):
        whole[part] = gathered_rows(array, index, part)
    return whole


def gathered_rows(array: Any, index: int | None, part: tuple[slice, ...]) -> np.ndarray:
    """Rows of an array, or of layer `index` of a stack, on every host. All hosts call it, in the same order.

    Args:
        part: of `row_slices`: a slice of rows, or nothing for a scalar.
    """
    if not isinstance(array, jax.Array):
        return np.asarray(array if index is None else array[index])[part]
    if not part:
        return np.asarray(array.addressable_data(0))
    (rows,) = part
    sent = _sent(
        array,
        index or 0,
        rows.start,
        size=rows.stop - rows.start,
        is_stacked=index is not None,
        layout=array.sharding if isinstance(array.sharding, NamedSharding) else None,
    )
    return np.asarray(sent.addressable_data(0)).view(array.dtype)


@functools.partial(jax.jit, static_argnames=("size", "is_stacked", "layout"))
def _sent(array: Any, index: Any, start: Any, *, size: int, is_stacked: bool, layout: NamedSharding | None) -> Any:
    """The bits of these rows on every device."""
    spec = () if layout is None else tuple(layout.spec)
    names = [_names(part) for part in (*spec, *[None] * (array.ndim - len(spec)))]
    axes = tuple(name for of_axis in names for name in of_axis)
    bits = jax.lax.bitcast_convert_type(array, _BITS[array.dtype.itemsize])

    def own(block: Any, index: Any, start: Any) -> Any:
        offsets = [jax.lax.axis_index(of) * n if of else 0 for of, n in zip(names, block.shape, strict=True)]
        ids = start - offsets[is_stacked] + jnp.arange(size)
        layer = index - offsets[0] if is_stacked else 0
        layers, rows = block.shape[0] if is_stacked else 1, block.shape[is_stacked]
        is_own = (ids >= 0) & (ids < rows) & (layer >= 0) & (layer < layers)
        width = block.shape[is_stacked + 1 :]
        taken = jnp.take(
            block.reshape(layers * rows, *width), jnp.where(is_own, layer * rows + ids, 0), axis=0, mode="clip"
        )
        taken = jnp.where(is_own.reshape(-1, *[1] * len(width)), taken, 0)
        if not axes:
            return taken
        # Integers of 32 bits are added up everywhere; shorter ones not by every library of collectives.
        places = jnp.zeros((size, *array.shape[is_stacked + 1 :]), jnp.promote_types(taken.dtype, jnp.uint32))
        filled = jax.lax.dynamic_update_slice(places, taken.astype(places.dtype), (0, *offsets[is_stacked + 1 :]))
        return jax.lax.psum(filled, axes).astype(taken.dtype)

    if layout is None:
        return own(bits, index, start)
    everywhere = PartitionSpec()
    run = jax.shard_map(
        own,
        mesh=layout.mesh,
        in_specs=(layout.spec, everywhere, everywhere),
        out_specs=everywhere,
        check_vma=False,
    )
    return run(bits, index, start)


def _names(part: Any) -> tuple[str, ...]:
    return (part,) if isinstance(part, str) else tuple(part or ())
