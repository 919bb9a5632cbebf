"""What a traced program holds beside its arguments, before anything is compiled: an estimate, and a least.

XLA fuses what stands side by side and orders what does not depend on each other, so a compiled program mostly holds
less than the estimate. The arrays that a loop leaves to a later one, as a forward pass does to the backward pass, are
there at once whatever is compiled: they are the least.
"""

import math
from typing import Any

from lodos.plan.traced import Place, programs_within

_FREE = frozenset({"broadcast_in_dim", "iota", "convert_element_type", "reshape", "expand_dims", "squeeze"})
"""Primitives whose results XLA makes where they are read."""


def estimated_temporaries(jaxpr: Any, devices: int) -> int:
    """Bytes on one device at the moment at which the program, run as it is written, holds most.

    Args:
        jaxpr: of `jax.stages.Traced`.
        devices: among which XLA's partitioner splits what is not written for one device (`jax.shard_map`).
    """
    return _peak(jaxpr, _outermost(jaxpr, devices))


def least_temporaries(jaxpr: Any, devices: int) -> int:
    """Bytes on one device that the results of the loop with the largest ones take."""

    def least(jaxpr: Any, place: Place) -> int:
        found = 0
        for equation in jaxpr.eqns:
            if equation.primitive.name == "scan":
                stacked = equation.outvars[equation.params["num_carry"] :]
                found = max(found, sum(map(_size, stacked)) // place.left)
            for nested in programs_within(equation):
                found = max(found, least(nested, place.within(equation)))
        return found

    return least(jaxpr, _outermost(jaxpr, devices))


def _peak(jaxpr: Any, place: Place) -> int:
    last = {var: index for index, equation in enumerate(jaxpr.eqns) for var in _variables(equation.invars)}
    # Results are there till the end.
    last |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
    held: dict[Any, int] = {}
    now = most = 0
    for index, equation in enumerate(jaxpr.eqns):
        name = equation.primitive.name
        made = {var: 0 if name in _FREE else _size(var) // place.left for var in equation.outvars}
        within = max((_peak(nested, place.within(equation)) for nested in programs_within(equation)), default=0)
        now += sum(made.values())
        # What a call gives is among what is held within it; what a loop stacks is not.
        most = max(most, now + (within if name == "scan" else max(0, within - sum(made.values()))))
        held |= made
        for var in {*_variables(equation.invars), *equation.outvars}:
            if last.get(var, index) <= index:
                now -= held.pop(var, 0)
    return most


def _outermost(jaxpr: Any, devices: int) -> Place:
    """What stands outside of any `shard_map` is little, and counts whole; without one it is all that there is."""
    return Place(1 if _has_shard_map(jaxpr) else devices)


def _has_shard_map(jaxpr: Any) -> bool:
    return any(
        equation.primitive.name == "shard_map" or any(map(_has_shard_map, programs_within(equation)))
        for equation in jaxpr.eqns
    )


def _variables(atoms: Any) -> list[Any]:
    """Those that are no literals."""
    return [atom for atom in atoms if not hasattr(atom, "val")]


def _size(var: Any) -> int:
    shape, dtype = getattr(var.aval, "shape", ()), getattr(var.aval, "dtype", None)
    return 0 if dtype is None else math.prod(shape) * dtype.itemsize
