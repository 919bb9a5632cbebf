"""The gated MLP (Shazeer 2020, arXiv:2002.05202), named as in Hugging Face's models."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from lodos.nn.dropout import split_keys
from lodos.nn.linear import Linear, LinearLike
from lodos.nn.products import fused_products, product, products

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class MLPConfig:
    """What tells one gated MLP from another."""

    hidden_size: int
    intermediate_size: int
    hidden_act: str
    kind: "type[GatedMLP]"
    """Its class: which weights make the gate and what goes through it."""
    bias: bool = False

    def init(self, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray) -> "GatedMLP":
        return self.kind.init(self, layers, dtype, key=key)


class GatedMLP(eqx.Module):
    """`down(act(gate) * up)`."""

    @staticmethod
    @abc.abstractmethod
    def init(config: MLPConfig, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray) -> "GatedMLP":
        """With random weights, as many as a stack of `layers` has."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "tokens embed"], *, key: PRNGKeyArray | None) -> Float[Array, "tokens embed"]:
        """Each token on its own."""


class MLP(GatedMLP):
    """The gate and what goes through it from weights of their own."""

    gate_proj: LinearLike
    up_proj: LinearLike
    down_proj: LinearLike
    hidden_act: str = eqx.field(static=True)

    @staticmethod
    def init(config: MLPConfig, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray) -> "MLP":
        keys = jax.random.split(key, 3)
        hidden, inner = config.hidden_size, config.intermediate_size

        def linear(key: PRNGKeyArray, out: int, in_: int, axes: tuple[str, str]) -> Linear:
            return Linear.init(out, in_, axes=axes, bias=config.bias, layers=layers, dtype=dtype, key=key)

        return MLP(
            gate_proj=linear(keys[0], inner, hidden, ("mlp", "embed")),
            up_proj=linear(keys[1], inner, hidden, ("mlp", "embed")),
            down_proj=linear(keys[2], hidden, inner, ("embed", "mlp")),
            hidden_act=config.hidden_act,
        )

    def __call__(self, x: Float[Array, "tokens embed"], *, key: PRNGKeyArray | None) -> Float[Array, "tokens embed"]:
        *keys, down_key = split_keys(key, 3)
        gate, up = products((self.gate_proj, self.up_proj), x, keys)
        return product(self.down_proj, ACTIVATIONS[self.hidden_act](gate) * up, down_key)


class FusedMLP(GatedMLP):
    """The gate and what goes through it from the rows of one weight, in this order."""

    gate_up_proj: LinearLike
    down_proj: LinearLike
    hidden_act: str = eqx.field(static=True)

    @staticmethod
    def init(config: MLPConfig, layers: tuple[int, ...], dtype: Any, *, key: PRNGKeyArray) -> "FusedMLP":
        gate_up_key, down_key = jax.random.split(key)
        hidden, inner = config.hidden_size, config.intermediate_size
        options: dict[str, Any] = dict(bias=config.bias, layers=layers, dtype=dtype)
        return FusedMLP(
            gate_up_proj=Linear.init(2 * inner, hidden, axes=("gate_up", "embed"), **options, key=gate_up_key),
            down_proj=Linear.init(hidden, inner, axes=("embed", "mlp"), **options, key=down_key),
            hidden_act=config.hidden_act,
        )

    def __call__(self, x: Float[Array, "tokens embed"], *, key: PRNGKeyArray | None) -> Float[Array, "tokens embed"]:
        gate_up_key, down_key = split_keys(key, 2)
        gate, up = fused_products(self.gate_up_proj, self.part_axes(), x, gate_up_key)
        return product(self.down_proj, ACTIVATIONS[self.hidden_act](gate) * up, down_key)

    def part_axes(self) -> tuple[tuple[str, int], ...]:
        return (("mlp", self.down_proj.in_features),) * 2
