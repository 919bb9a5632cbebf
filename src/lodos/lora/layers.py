"""A linear layer with a low-rank update beside it.

The base layer is wrapped, not subclassed: the model around it does not change and need not know.

    model.layers.*.self_attn.q_proj                      Linear
    model.layers.*.self_attn.q_proj                      LoraLinear
    model.layers.*.self_attn.q_proj.base_layer           Linear, frozen
    model.layers.*.self_attn.q_proj.lora_A               [layers, r, in]    float32, trained
    model.layers.*.self_attn.q_proj.lora_B               [layers, out, r]   float32, trained
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lodos.lora.adapted import LoraLayer
from lodos.lora.product import lora_product
from lodos.nn.dropout import drop, kept_elements
from lodos.nn.linear import Linear

Ranks = tuple[int, ...] | None
"""Of each layer of a stack, 0 where it is not adapted; None where all have the rank of the arrays."""

Scale = float | tuple[float, ...]
"""Of all layers, or of each layer of a stack."""


class LoraLinear(LoraLayer):
    """`y = W x + b + scale * B (A dropout(x))`; with a leading `layers` axis a stack of such layers."""

    factor_names: ClassVar[tuple[str, str]] = ("lora_A", "lora_B")
    names_in_files: ClassVar[tuple[str, str]] = ("lora_A.weight", "lora_B.weight")

    base_layer: Linear
    lora_A: Float[Array, "*layers r in"]
    lora_B: Float[Array, "*layers out r"]
    ranks: Ranks = eqx.field(static=True)
    scale: Scale = eqx.field(static=True)
    dropout: float = eqx.field(static=True)
    index: Int[Array, "*layers"] | None = None
    """The place of each layer in `scale`, where that is one number for each. (Whole numbers, as no change of dtype
    touches them.)"""

    @property
    def axes(self) -> tuple[str, str]:
        return self.base_layer.axes

    @property
    def in_features(self) -> int:
        return self.base_layer.in_features

    @property
    def out_features(self) -> int:
        return self.base_layer.out_features

    def __call__(
        self, x: Float[Array, "*tokens in"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens out"]:
        return self.finish(self.product(x, self.kept(x, key)))

    def kept(self, x: Float[Array, "*tokens in"], key: PRNGKeyArray | None) -> Bool[Array, "*tokens in"] | None:
        return kept_elements(x.shape, self.dropout, key)

    def product(
        self, x: Float[Array, "*tokens in"], kept: Bool[Array, "*tokens in"] | None
    ) -> Float[Array, "*tokens out"]:
        dropped = None if kept is None else drop(x, kept, self.dropout)
        # The factors are kept in float32, for small updates to add up, and used in the dtype of the activations.
        A, B = self.lora_A.astype(x.dtype), self.lora_B.astype(x.dtype)
        scale = jnp.asarray(self.scale, x.dtype)[self.index] if isinstance(self.scale, tuple) else self.scale
        return lora_product((x, dropped, self.base_layer.weight, A, B), scale)

    def finish(self, product: Float[Array, "*tokens out"]) -> Float[Array, "*tokens out"]:
        return self.base_layer.finish(product)

    def rows(self, start: int, stop: int, axis: str) -> "LoraLinear":
        base_layer = self.base_layer.rows(start, stop, axis)
        return dataclasses.replace(self, base_layer=base_layer, lora_B=self.lora_B[start:stop])

    @property
    def first_layer(self) -> int:
        """The lowest layer of the stack that is adapted."""
        return 0 if self.ranks is None else next(index for index, rank in enumerate(self.ranks) if rank)

    def in_layers(self, start: int, stop: int) -> "Linear | LoraLinear":
        """The part of a stack from layer `start` to `stop`; without its adapter if none of these layers is adapted.

        The base layer is left whole, that of all layers.
        """
        ranks = None if self.ranks is None else self.ranks[start:stop]
        if ranks is not None and not any(ranks):
            return self.base_layer
        A, B = self.lora_A[start:stop], self.lora_B[start:stop]
        if not isinstance(self.scale, tuple):
            scale, index = self.scale, None
        else:
            scale, index = self.scale[start:stop], jnp.arange(stop - start)
        return LoraLinear(
            self.base_layer, lora_A=A, lora_B=B, ranks=ranks, scale=scale, dropout=self.dropout, index=index
        )

    def rank_of(self, index: int | None) -> int:
        return self.lora_A.shape[-2] if self.ranks is None or index is None else self.ranks[index]

    def within_ranks(self, A: Array, B: Array) -> tuple[Array, Array]:
        return within_ranks(self.ranks, A, B)

    def delta(self) -> Float[Array, "*layers out in"]:
        """What the adapter adds to the weight, `scale * B A`, in float32."""
        scale = jnp.asarray(self.scale, jnp.float32)[:, None, None] if isinstance(self.scale, tuple) else self.scale
        return scale * jnp.matmul(self.lora_B.astype(jnp.float32), self.lora_A.astype(jnp.float32))

    def delta_of(self, index: int | None, rows: slice = slice(None)) -> Float[np.ndarray, "out in"]:
        A, B = self.file_tensors(index).values()
        scale = self.scale[index or 0] if isinstance(self.scale, tuple) else self.scale
        return np.float32(scale) * (B[rows] @ A)

    def merged(self) -> Linear:
        weight = self.base_layer.weight
        summed = (weight.astype(jnp.float32) + self.delta()).astype(weight.dtype)
        return Linear(summed, self.base_layer.bias, self.base_layer.axes)

    def logical_axes(self) -> Mapping[str, tuple[str, ...]]:
        out_axis, in_axis = self.base_layer.axes
        return {"lora_A": ("lora_r", in_axis), "lora_B": (out_axis, "lora_r")}


def within_ranks(ranks: Ranks, A: Array, B: Array) -> tuple[Array, Array]:
    """The factors of a stack, zero beyond the rank of each layer."""
    if ranks is None:
        return A, B
    is_within = jnp.arange(A.shape[-2]) < jnp.asarray(ranks)[:, None]
    return jnp.where(is_within[:, :, None], A, 0.0), jnp.where(is_within[:, None, :], B, 0.0)
