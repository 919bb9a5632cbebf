"""The machine's matrix speed in float32, as JAX and torch reach it."""

import time
from collections.abc import Callable
from typing import Any

from bench.contestants import Channel

Product = Callable[[], Any]
"""Computes one product and waits for it."""


def jax_matrix(channel: Channel, *, shapes: list[tuple[int, int, int]]) -> None:
    """`[tokens, inputs] x [outputs, inputs]^T` in JAX, with the memory of lodos."""
    from lodos.runtime import prepare_runtime

    prepare_runtime()
    import jax

    product = jax.jit(lambda x, weight: x @ weight.T)

    def make(tokens: int, inputs: int, outputs: int) -> Product:
        x = jax.random.normal(jax.random.key(0), (tokens, inputs))
        weight = jax.random.normal(jax.random.key(1), (outputs, inputs))
        return lambda: product(x, weight).block_until_ready()

    _serve(channel, shapes, make)


def torch_matrix(channel: Channel, *, shapes: list[tuple[int, int, int]]) -> None:
    """The same in torch."""
    import torch

    def make(tokens: int, inputs: int, outputs: int) -> Product:
        x, weight = torch.randn(tokens, inputs), torch.randn(outputs, inputs)
        out = torch.empty(tokens, outputs)
        return lambda: torch.mm(x, weight.T, out=out)

    _serve(channel, shapes, make)


def _serve(channel: Channel, shapes: list[tuple[int, int, int]], make: Callable[[int, int, int], Product]) -> None:
    products = [make(*shape) for shape in shapes]
    for product in products:
        product()
    channel.send()
    for request in channel:
        speeds = [
            2 * tokens * inputs * outputs / _best_seconds(product, request["seconds"])
            for product, (tokens, inputs, outputs) in zip(products, shapes, strict=True)
        ]
        channel.send(flops_per_second=speeds)


def _best_seconds(product: Product, seconds: float) -> float:
    """The shortest time of those that fit into so many seconds, at least three."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        started = time.perf_counter()
        product()
        times.append(time.perf_counter() - started)
    return min(times)
