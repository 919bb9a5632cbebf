"""What a function traces to, for tests of what it does not do."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr


def output_sizes(fn: Callable[..., Any], *args: Any) -> list[int]:
    """How many numbers each array holds that is made on the way."""
    return [variable.aval.size for equation, _ in equations(fn, *args) for variable in equation.outvars]


def product_shapes(fn: Callable[..., Any], *args: Any) -> list[tuple[int, ...]]:
    """The shapes of the matrix products, sorted."""
    return sorted(equation.outvars[0].aval.shape for equation, _ in _products(fn, *args))


def product_flops(fn: Callable[..., Any], *args: Any) -> int:
    """Two for each multiplication of a matrix product."""

    def flops(equation: Any) -> int:
        (contracted, _), _ = equation.params["dimension_numbers"]
        out, left = equation.outvars[0].aval, equation.invars[0].aval
        return 2 * out.size * math.prod(left.shape[axis] for axis in contracted)

    return sum(times * flops(equation) for equation, times in _products(fn, *args))


def equations(fn: Callable[..., Any], *args: Any) -> Iterator[tuple[Any, int]]:
    """Every equation that the results depend on, those of loops and calls included, and how often it is run.

    A loop without a fixed number of rounds counts once.
    """
    closed = jax.make_jaxpr(fn)(*args)
    jaxpr, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _equations(jaxpr, 1)


def _products(fn: Callable[..., Any], *args: Any) -> Iterator[tuple[Any, int]]:
    return (found for found in equations(fn, *args) if found[0].primitive.name == "dot_general")


def _equations(jaxpr: Jaxpr, times: int) -> Iterator[tuple[Any, int]]:
    for equation in jaxpr.eqns:
        yield equation, times
        rounds = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda node: isinstance(node, Jaxpr | ClosedJaxpr)):
            if isinstance(inner, Jaxpr | ClosedJaxpr):
                yield from _equations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner, times * rounds)
