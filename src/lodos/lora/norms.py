"""How large the factors of the adapters are."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lodos.lora.layers import LoraLinear
from lodos.lora.transform import lora_layers


def lora_norms(model: PyTree) -> dict[str, Float[Array, ""]]:
    """`lora_A_norm` and `lora_B_norm`: the Frobenius norm of all A together and of all B together, in float32.

    Layers of a stack that are not adapted do not count.
    """
    layers = lora_layers(model).values()
    return {f"{field}_norm": jnp.sqrt(sum(_sum_of_squares(layer, field) for layer in layers)) for field in _FACTORS}


_FACTORS = ("lora_A", "lora_B")


def _sum_of_squares(layer: LoraLinear, field: str) -> Float[Array, ""]:
    squares = jnp.square(getattr(layer, field).astype(jnp.float32))
    return jnp.sum(squares if layer.adapted is None else jnp.where(layer.adapted[..., None, None], squares, 0.0))
