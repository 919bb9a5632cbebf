"""Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467) and its kin."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Norm(Protocol):
    """A normalisation over the last axis."""

    def __call__(self, x: Float[Array, "*tokens features"]) -> Float[Array, "*tokens features"]: ...


class RMSNorm(eqx.Module):
    """`weight * x / rms(x)`, with the mean square in float32 whatever the compute dtype."""

    weight: Float[Array, "*layers features"]
    eps: float = eqx.field(static=True)
    axis: str = eqx.field(static=True, default="embed")

    @classmethod
    def init(cls, features: int, eps: float, layers: tuple[int, ...], dtype: Any, axis: str) -> "RMSNorm":
        """A norm that multiplies by one."""
        return cls(jnp.ones((*layers, features), dtype), eps, axis)

    def __call__(self, x: Float[Array, "*tokens features"]) -> Float[Array, "*tokens features"]:
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        # Rounded before the weight is applied, as transformers' LlamaRMSNorm does, for equal logits in bfloat16.
        return self.weight * normed.astype(x.dtype)

    def logical_axes(self) -> Mapping[str, tuple[str, ...]]:
        return {"weight": (self.axis,)}


class RoundedLastRMSNorm(RMSNorm):
    """The same, with the weight applied before the rounding, as transformers' Olmo2RMSNorm does."""

    def __call__(self, x: Float[Array, "*tokens features"]) -> Float[Array, "*tokens features"]:
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        return (self._factor() * normed).astype(x.dtype)

    def _factor(self) -> Float[Array, " features"]:
        return self.weight.astype(jnp.float32)


class OnePlusRMSNorm(RoundedLastRMSNorm):
    """`(1 + weight) * x / rms(x)`, in float32 throughout: Gemma's."""

    @classmethod
    def init(cls, features: int, eps: float, layers: tuple[int, ...], dtype: Any, axis: str) -> "OnePlusRMSNorm":
        return cls(jnp.zeros((*layers, features), dtype), eps, axis)

    def _factor(self) -> Float[Array, " features"]:
        return 1.0 + self.weight.astype(jnp.float32)


class LayerNorm(RoundedLastRMSNorm):
    """`weight * (x - mean(x)) / std(x)`, in float32 throughout: Cohere's, which has no bias (arXiv:1607.06450)."""

    def __call__(self, x: Float[Array, "*tokens features"]) -> Float[Array, "*tokens features"]:
        x32 = x.astype(jnp.float32)
        return super().__call__(x32 - jnp.mean(x32, axis=-1, keepdims=True)).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class NormConfig:
    """What tells one norm from another."""

    eps: float
    kind: type[RMSNorm] = RMSNorm

    def init(self, features: int, layers: tuple[int, ...], dtype: Any, axis: str = "embed") -> Norm:
        """A norm of so many features, as many as a stack of `layers` has."""
        return self.kind.init(features, self.eps, layers, dtype, axis)
