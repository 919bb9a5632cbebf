"""What every layer needs to know of the tokens."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lodos.nn.attention.attention import AttentionImplementation, Window, attention
from lodos.nn.attention.plain import plain_attention
from lodos.nn.attention.segments import first_visible
from lodos.nn.rotary import RotaryConfig, apply_rotary


class Context(eqx.Module):
    """Where the tokens are and who sees whom.

    A token sees those from the start of its segment to itself and, with a window, no more than `window` of them.
    """

    tables: tuple[tuple[Float[Array, "batch seq half"], Float[Array, "batch seq half"]], ...]
    """The cosines and sines of each kind of rotary positions that the model has."""
    rotaries: tuple[RotaryConfig, ...] = eqx.field(static=True)
    """Those kinds."""
    positions: Int[Array, "batch seq"]
    """Of each token in its segment."""
    starts: Int[Array, "batch seq"]
    """The index, among the keys, of the first token of each token's segment; of filler its own."""
    cache_start: Int[Array, ""] | None
    """Where new keys go in the cache."""
    attn_implementation: AttentionImplementation = eqx.field(static=True)

    def rotated(
        self, x: Float[Array, "batch seq heads head_size"], rotary: RotaryConfig
    ) -> Float[Array, "batch seq heads head_size"]:
        cos, sin = self.tables[self.rotaries.index(rotary)]
        return apply_rotary(x, cos, sin, interleaved=rotary.interleaved)

    def attend(
        self,
        q: Float[Array, "batch seq heads head_size"],
        k: Float[Array, "batch keys kv_heads head_size"],
        v: Float[Array, "batch keys kv_heads head_size"],
        window: Window,
        *,
        scale: float | None = None,
        soft_cap: float | None = None,
    ) -> Float[Array, "batch seq heads head_size"]:
        """The attention of new tokens to themselves or, with a cache, to what it holds."""
        if self.cache_start is None:
            how = self.attn_implementation
            return attention(q, k, v, self.starts, window, scale=scale, soft_cap=soft_cap, implementation=how)
        slots = self.cache_start + jnp.arange(q.shape[1], dtype=self.starts.dtype)
        first = first_visible(self.starts, slots, window)
        return plain_attention(q, k, v, first, slots, scale=scale, soft_cap=soft_cap)
