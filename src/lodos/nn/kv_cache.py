"""The keys and values of tokens already read, so that generating one more token reads only that one."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class LayerCache(eqx.Module):
    """The cache of one layer."""

    k: Float[Array, "batch length kv_heads head_size"]
    v: Float[Array, "batch length kv_heads head_size"]


class KVCache(eqx.Module):
    """The cache of all layers, of a fixed length, filled up to `used`. Slots not yet used have segment 0."""

    layers: LayerCache
    """With a leading `layers` axis."""
    segment_ids: Int[Array, "batch length"]
    used: Int[Array, ""]

    @staticmethod
    def empty(num_layers: int, batch: int, length: int, kv_heads: int, head_size: int, dtype: jnp.dtype) -> "KVCache":
        shape = (num_layers, batch, length, kv_heads, head_size)
        layers = LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
        return KVCache(layers, jnp.zeros((batch, length), jnp.int32), jnp.zeros((), jnp.int32))

    def extend_segments(self, segment_ids: Int[Array, "batch new"]) -> "KVCache":
        """The cache with the segments of the new tokens noted and `used` moved past them."""
        segments = jax.lax.dynamic_update_slice_in_dim(self.segment_ids, segment_ids, self.used, axis=1)
        return KVCache(self.layers, segments, self.used + segment_ids.shape[1])

    def rewound(self, used: Int[Array, ""]) -> "KVCache":
        """The cache as it was when it held `used` tokens."""
        is_used = jnp.arange(self.segment_ids.shape[1])[None] < used
        return KVCache(self.layers, jnp.where(is_used, self.segment_ids, 0), jnp.asarray(used, jnp.int32))

    def lengthened(self, length: int) -> "KVCache":
        """The cache with room for `length` tokens."""
        more = length - self.segment_ids.shape[1]

        def padded(array: Array, axis: int) -> Array:
            return jnp.pad(array, [(0, more if i == axis else 0) for i in range(array.ndim)])

        layers = LayerCache(padded(self.layers.k, 2), padded(self.layers.v, 2))
        return KVCache(layers, padded(self.segment_ids, 1), self.used)


def write(
    cache: LayerCache,
    start: Int[Array, ""],
    k: Float[Array, "batch new kv_heads head_size"],
    v: Float[Array, "batch new kv_heads head_size"],
) -> LayerCache:
    """The layer's cache with the new keys and values at `start`, in the cache's dtype."""

    def update(old: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=1)

    return LayerCache(update(cache.k, k), update(cache.v, v))
