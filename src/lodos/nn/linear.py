"""A linear layer with its weight as Hugging Face stores it, `[out, in]`."""

from collections.abc import Mapping
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, PRNGKeyArray

PRODUCT_NAME = "linear_product"
"""How gradient checkpointing knows the products of activations and weights."""


class LinearLike(Protocol):
    """A linear layer, which can also be taken through step by step, the product of it on parts (`products`)."""

    @property
    def axes(self) -> tuple[str, str]:
        """The logical names of the out and in axes of its weight."""
        ...

    @property
    def in_features(self) -> int: ...

    @property
    def out_features(self) -> int: ...

    def __call__(
        self, x: Float[Array, "*tokens in"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens out"]:
        """`finish(product(x, kept(x, key)))`."""
        ...

    def kept(self, x: Float[Array, "*tokens in"], key: PRNGKeyArray | None) -> Bool[Array, "*tokens in"] | None:
        """Which elements of the input its dropout keeps; None where it has none."""
        ...

    def product(
        self, x: Float[Array, "*tokens in"], kept: Bool[Array, "*tokens in"] | None
    ) -> Float[Array, "*tokens out"]:
        """The products with its weights: the whole ones, or parts that belong together."""
        ...

    def finish(self, product: Float[Array, "*tokens out"]) -> Float[Array, "*tokens out"]:
        """The output from the product, which is marked as what gradient checkpointing may keep."""
        ...

    def rows(self, start: int, stop: int, axis: str) -> "LinearLike":
        """The layer that makes these features of the output alone, under the name `axis`."""
        ...


class Linear(eqx.Module):
    """`y = x W^T + b`. With a leading `layers` axis it is a stack of layers, to be sliced by `Stacked`."""

    weight: Float[Array, "*layers out in"]
    bias: Float[Array, "*layers out"] | None
    axes: tuple[str, str] = eqx.field(static=True)
    """The logical names of the out and in axes."""

    @staticmethod
    def init(
        out_features: int,
        in_features: int,
        *,
        axes: tuple[str, str],
        bias: bool = False,
        layers: tuple[int, ...] = (),
        std: float = 0.02,
        dtype: Any = jnp.float32,
        key: PRNGKeyArray,
    ) -> "Linear":
        """Normal weights with standard deviation `std` and a zero bias, as transformers initialises Llama."""
        weight = std * jax.random.normal(key, (*layers, out_features, in_features), dtype)
        return Linear(weight, jnp.zeros((*layers, out_features), dtype) if bias else None, axes)

    @property
    def in_features(self) -> int:
        return self.weight.shape[-1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[-2]

    def __call__(
        self, x: Float[Array, "*tokens in"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens out"]:
        return self.finish(self.product(x, None))

    def kept(self, x: Float[Array, "*tokens in"], key: PRNGKeyArray | None) -> None:
        return None

    def product(
        self, x: Float[Array, "*tokens in"], kept: Bool[Array, "*tokens in"] | None
    ) -> Float[Array, "*tokens out"]:
        return x @ self.weight.T

    def finish(self, product: Float[Array, "*tokens out"]) -> Float[Array, "*tokens out"]:
        product = checkpoint_name(product, PRODUCT_NAME)
        return product if self.bias is None else product + self.bias

    def rows(self, start: int, stop: int, axis: str) -> "Linear":
        bias = None if self.bias is None else self.bias[start:stop]
        return Linear(self.weight[start:stop], bias, (axis, self.axes[1]))

    def logical_axes(self) -> Mapping[str, tuple[str, ...]]:
        return {"weight": self.axes, "bias": self.axes[:1]}
