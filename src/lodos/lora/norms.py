"""How large the factors of the adapters are."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from lodos.lora.transform import lora_layers


def lora_norms(model: PyTree) -> dict[str, Float[Array, ""]]:
    """`lora_A_norm` and `lora_B_norm`: the Frobenius norm of all A together and of all B together, in float32."""
    layers = lora_layers(model).values()
    factors = {
        "lora_A_norm": [layer.factors[0].astype(jnp.float32) for layer in layers],
        "lora_B_norm": [layer.factors[1].astype(jnp.float32) for layer in layers],
    }
    return {name: optax.tree.norm(arrays) for name, arrays in factors.items()}
