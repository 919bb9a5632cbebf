"""A linear layer with a low-rank update beside it.

The base layer is wrapped, not subclassed: the model around it does not change and need not know.

    model.layers.*.self_attn.q_proj                      Linear
    model.layers.*.self_attn.q_proj                      LoraLinear
    model.layers.*.self_attn.q_proj.base_layer           Linear, frozen
    model.layers.*.self_attn.q_proj.lora_A               [layers, r, in]    float32, trained
    model.layers.*.self_attn.q_proj.lora_B               [layers, out, r]   float32, trained
"""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lodos.lora.product import lora_product
from lodos.nn.dropout import dropout
from lodos.nn.linear import Linear


class LoraLinear(eqx.Module):
    """`y = W x + b + scale * B (A dropout(x))`; with a leading `layers` axis a stack of such layers."""

    base_layer: Linear
    lora_A: Float[Array, "*layers r in"]
    lora_B: Float[Array, "*layers out r"]
    adapted: tuple[bool, ...] | None = eqx.field(static=True)
    """Which layers of a stack are adapted; None for all. Both factors of the others are zero, so that they have no
    effect and no gradient."""
    scale: float = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    @property
    def in_features(self) -> int:
        return self.base_layer.in_features

    @property
    def out_features(self) -> int:
        return self.base_layer.out_features

    def __call__(
        self, x: Float[Array, "*tokens in"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens out"]:
        # The factors are kept in float32, for small updates to add up, and used in the dtype of the activations.
        A, B = self.lora_A.astype(x.dtype), self.lora_B.astype(x.dtype)
        dropped = None if key is None or self.dropout == 0.0 else dropout(x, self.dropout, key)
        y = lora_product((x, dropped, self.base_layer.weight, A, B), self.scale)
        return self.base_layer.finish(y)

    @property
    def first_layer(self) -> int:
        """The lowest layer of the stack that is adapted."""
        return 0 if self.adapted is None else self.adapted.index(True)

    def in_layers(self, start: int, stop: int) -> "Linear | LoraLinear":
        """The part of a stack from layer `start` to `stop`; without its adapter if none of these layers is adapted.

        The base layer is left whole, that of all layers.
        """
        adapted = None if self.adapted is None else self.adapted[start:stop]
        if adapted is not None and not any(adapted):
            return self.base_layer
        A, B = self.lora_A[start:stop], self.lora_B[start:stop]
        return LoraLinear(self.base_layer, A, B, adapted, self.scale, self.dropout)

    def delta(self) -> Float[Array, "*layers out in"]:
        """What the adapter adds to the weight, `scale * B A`, in float32."""
        return self.scale * jnp.matmul(self.lora_B.astype(jnp.float32), self.lora_A.astype(jnp.float32))

    def merged(self) -> Linear:
        """The plain layer with the update added to its weight: in float32, rounded once to the weight's dtype."""
        weight = self.base_layer.weight
        summed = (weight.astype(jnp.float32) + self.delta()).astype(weight.dtype)
        return Linear(summed, self.base_layer.bias, self.base_layer.axes)

    def logical_axes(self) -> Mapping[str, tuple[str, ...]]:
        out_axis, in_axis = self.base_layer.axes
        return {"lora_A": ("lora_r", in_axis), "lora_B": (out_axis, "lora_r")}
