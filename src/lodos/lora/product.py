"""`W x + scale * B (A x)` with a derivative of its own.

Three things are done here that JAX would not do by itself. With T tokens and a rank r far below both widths, they
are what LoRA costs beyond its base layer.

The sum `W + scale * B A` is formed anew for each use where that is cheaper than a second pass over the activations:
with more tokens than a weight has columns, and no dropout between the two. Forward and backward then have as many large
products as the base layer alone. A product in 16 bits would round the update away with the sum, so there the two stay
apart: where the arrays have 16 bits, and on accelerators, which round the factors of a float32 product to bfloat16 or
TF32 unless told otherwise.

The gradient of B, `dy^T h`, is made as `(h^T dy)^T`: r rows that XLA's CPU backend multiplies ten times as fast as r
columns.

Only what is asked for is formed: no gradient of a frozen W, none of an input below which nothing is trained. Kept for
the backward pass are the arguments alone.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lodos.target import target

Arguments = tuple[
    Float[Array, "*tokens in"],
    Float[Array, "*tokens in"] | None,
    Float[Array, "out in"],
    Float[Array, "r in"],
    Float[Array, "out r"],
]
"""x, dropout(x) or None where nothing is dropped, W, A and B, all of one dtype."""


@eqx.filter_custom_vjp
def lora_product(arguments: Arguments, scale: float) -> Float[Array, "*tokens out"]:
    """`x W^T + scale * (dropout(x) A^T) B^T`."""
    x, dropped, weight, A, B = arguments
    if _is_summed(arguments):
        return x @ _sum(weight, A, B, scale).T
    return x @ weight.T + scale * ((x if dropped is None else dropped) @ A.T @ B.T)


@lora_product.def_fwd
def _forward(perturbed: Any, arguments: Arguments, scale: float) -> tuple[Array, None]:
    del perturbed
    return lora_product(arguments, scale), None


@lora_product.def_bwd
def _backward(residuals: None, dy: Array, perturbed: Any, arguments: Arguments, scale: float) -> Any:
    del residuals
    x, dropped, weight, A, B = arguments
    x_perturbed, dropped_perturbed, weight_perturbed, A_perturbed, B_perturbed = perturbed
    adapted = x if dropped is None else dropped
    dy_B = scale * (dy @ B)
    d_adapted = None
    if dropped is None and x_perturbed:
        dx = dy @ _sum(weight, A, B, scale) if _is_summed(arguments) else dy @ weight + dy_B @ A
    else:
        dx = dy @ weight if x_perturbed else None
        d_adapted = dy_B @ A if dropped_perturbed else None
    return (
        dx,
        d_adapted,
        _over_tokens(dy, x) if weight_perturbed else None,
        _over_tokens(dy_B, adapted) if A_perturbed else None,
        scale * jax.lax.optimization_barrier(_over_tokens(adapted @ A.T, dy)).T if B_perturbed else None,
    )


def _is_summed(arguments: Arguments) -> bool:
    x, dropped, weight, *_ = arguments
    tokens = x.size // x.shape[-1]
    exact = weight.dtype == x.dtype == jnp.float32 and target().platform == "cpu"
    return exact and dropped is None and tokens > weight.shape[1]


def _sum(weight: Array, A: Array, B: Array, scale: float) -> Float[Array, "out in"]:
    return weight + scale * (B @ A)


def _over_tokens(a: Float[Array, "*tokens m"], b: Float[Array, "*tokens n"]) -> Float[Array, "m n"]:
    """`a^T b`, summed over all tokens."""
    tokens = tuple(range(a.ndim - 1))
    return jax.lax.dot_general(a, b, ((tokens, tokens), ((), ())))
