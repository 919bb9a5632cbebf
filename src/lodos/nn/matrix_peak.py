"""How fast a device multiplies matrices: what the speed of everything else is measured against."""

import functools
import time
from typing import Any

import jax

from lodos.target import target

_SIZES = {"cpu": 1024}
"""Rows of the square matrices; large enough to keep the device busy, small enough to be done at once."""
_SIZE_ELSEWHERE = 8192
_PRODUCTS = 2
"""In one call, so that dispatching it does not count."""
_REPEATS = 4


@functools.cache
def matrix_peak(dtype: Any = "float32") -> float:
    """Floating-point operations a second of the default device in products of square matrices of `dtype`.

    The best of a few short measurements, a tenth of a second in all on a slow machine; a product of n x n matrices
    counts 2 n^3. On the CPU one device has all cores, whatever their number.
    """
    n = _SIZES.get(target().platform, _SIZE_ELSEWHERE)

    @jax.jit
    def products(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, _PRODUCTS, lambda _, x: (x @ b).astype(a.dtype), a)

    # Random, since a GPU computes faster with numbers that are all alike; of a size that stays in the product.
    a = (jax.random.normal(jax.random.key(0), (n, n)) / n**0.5).astype(dtype)
    products(a, a).block_until_ready()
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        products(a, a).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 * _PRODUCTS / best
