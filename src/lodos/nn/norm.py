"""Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class RMSNorm(eqx.Module):
    """`weight * x / rms(x)`, with the mean square in float32 whatever the compute dtype."""

    weight: Float[Array, "*layers features"]
    eps: float = eqx.field(static=True)
    axis: str = eqx.field(static=True, default="embed")

    def __call__(self, x: Float[Array, "*tokens features"]) -> Float[Array, "*tokens features"]:
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        # Rounded before the weight is applied, as transformers' LlamaRMSNorm does, for equal logits in bfloat16.
        return self.weight * normed.astype(x.dtype)

    def logical_axes(self) -> Mapping[str, tuple[str, ...]]:
        return {"weight": (self.axis,)}
