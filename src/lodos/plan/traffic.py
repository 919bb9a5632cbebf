"""What a step moves between devices, by kind: from the text of the compiled program, or from the traced one.

Bytes are those of the result on one device, whatever the network does to bring it about. The compiled program has all
that is moved. The traced one has what is written down, of rows that are shared out (`lodos.shares`) and of layers that
are split (`lodos.nn.products`), and not what XLA's partitioner adds: for a vocabulary that is split, or factors.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lodos.plan.traced import Place, programs_within

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_PRIMITIVES = {
    "all_gather": "all-gather",
    "all_gather_invariant": "all-gather",
    "psum": "all-reduce",
    "psum_invariant": "all-reduce",
    "pmax": "all-reduce",
    "pmin": "all-reduce",
    "reduce_scatter": "reduce-scatter",
    "all_to_all": "all-to-all",
    "ppermute": "collective-permute",
}
_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls|called_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_INDEX = re.compile(r"index=(\d+)")
_NAME = re.compile(r"%([\w.\-]+)")
_CHAIN = re.compile(r"channel_id=\d+|chain_id=\"\d+\"")
_SHAPE = re.compile(r"([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")


def traffic_of_text(hlo: str) -> Mapping[str, int] | None:
    """Bytes that a compiled program moves, by kind; None where it moves something in a loop of unknown length.

    Args:
        hlo: what `jax.stages.Compiled.as_text()` gives.
    """
    computations, entry = _computations(hlo)

    @functools.cache
    def fused(name: str) -> Mapping[str, tuple[str, int]]:
        """Kind and bytes of what is moved within a fusion, by name or, if it goes on in other fusions, by chain."""
        found: dict[str, tuple[str, int]] = {}
        for label, instruction in computations.get(name, {}).items():
            if instruction.kind in KINDS:
                chain = " ".join(_CHAIN.findall(instruction.rest))
                found[chain if "chain_id" in chain else label] = (instruction.kind, _moved(instruction))
            for other in _CALLED.findall(instruction.rest) if instruction.operation == "fusion" else ():
                found |= fused(other)
        return found

    @functools.cache
    def of(name: str) -> Counter[str]:
        found: Counter[str] = Counter()
        pieces: dict[str, tuple[str, int]] = {}
        instructions = computations.get(name, {})
        for instruction in instructions.values():
            if instruction.kind in KINDS:
                found[instruction.kind] += _moved(instruction)
                continue
            if instruction.operation == "fusion":
                # What is moved while something else is computed, TPUs' compiler writes into the fusion that starts it,
                # into those that go on beside it and into the one that ends it.
                for other in _CALLED.findall(instruction.rest):
                    pieces |= fused(other)
                continue
            called = _CALLED.findall(instruction.rest)
            for branches in _BRANCHES.findall(instruction.rest):
                called += _NAME.findall(branches)
            inner: Counter[str] = sum((of(other) for other in called), Counter())
            if inner and instruction.operation == "while":
                trips = _trip_count(instruction, instructions, computations)
                if trips is None:
                    raise _UnknownLengthError
                inner = Counter({kind: size * trips for kind, size in inner.items()})
            found += inner
        for kind, size in pieces.values():
            found[kind] += size
        return found

    try:
        return dict(of(entry))
    except _UnknownLengthError:
        return None


def traffic_of_jaxpr(jaxpr: Any) -> Mapping[str, int]:
    """Bytes that a traced program moves, by kind, in so far as it says so itself.

    Args:
        jaxpr: of `jax.stages.Traced`. A `while` whose length nobody knows counts once, and what XLA's partitioner may
            split over further devices as if it did.
    """
    found: Counter[str] = Counter()

    def count(jaxpr: Any, times: int, place: Place) -> None:
        for equation in jaxpr.eqns:
            name, params = equation.primitive.name, equation.params
            if (kind := _PRIMITIVES.get(name)) is not None:
                moved = sum(math.prod(out.aval.shape) * out.aval.dtype.itemsize for out in equation.outvars)
                found[kind] += times * moved // place.left
            inner = times * (params["length"] if name == "scan" else 1)
            for nested in programs_within(equation):
                count(nested, inner, place.within(equation))

    count(jaxpr, 1, Place())
    return dict(found)


def has_all_of(compiled: Mapping[str, int], traced: Mapping[str, int], devices: int) -> bool:
    """Whether a compiled program moves what it was asked to; XLA may have each device keep only its part of a sum."""
    whole = {**compiled, "all-reduce": compiled.get("all-reduce", 0) + devices * compiled.get("reduce-scatter", 0)}
    return all(whole.get(kind, 0) >= size for kind, size in traced.items())


class _UnknownLengthError(Exception):
    """A loop does not say how often it runs."""


@dataclasses.dataclass(frozen=True)
class _Instruction:
    shape: str
    operation: str
    rest: str
    """Operands and attributes."""

    @property
    def kind(self) -> str:
        """The operation, whether it is done at once or only started."""
        return self.operation.removesuffix("-start")

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.rest.partition(")")[0])


_Computations = Mapping[str, Mapping[str, _Instruction]]


def _computations(hlo: str) -> tuple[_Computations, str]:
    """The instructions of each computation by name, and the name of the first computation that runs."""
    found: dict[str, dict[str, _Instruction]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            name = match[1]
            found[name] = {}
            entry = name if line.startswith("ENTRY") else entry
        elif line == "}" or line.startswith("}, execution_thread"):  # attributes of a kernel have lines like it
            name = ""
        elif name and (match := _INSTRUCTION.match(line)):
            found[name][match[1]] = _Instruction(*match.groups()[1:])
    return found, entry


def _trip_count(loop: _Instruction, around: Mapping[str, _Instruction], computations: _Computations) -> int | None:
    """How often a loop runs: as XLA says or, where it does not, up to which constant its counter counts from 0."""
    if known := _TRIPS.search(loop.rest):
        return int(known[1])
    match = _CONDITION.search(loop.rest)
    condition = {} if match is None else computations.get(match[1], {})
    compared = [found for found in condition.values() if found.operation == "compare" and "direction=LT" in found.rest]
    start = around.get(loop.operands[0]) if loop.operands else None
    if len(compared) != 1 or start is None or start.operation != "tuple":
        return None

    def constant(name: str, instructions: Mapping[str, _Instruction]) -> int | None:
        found = instructions.get(name)
        if found is None:
            return None
        if found.operation == "constant":
            digits = re.match(r"(\d+)\)", found.rest)
            return None if digits is None else int(digits[1])
        if found.operation in ("copy", "bitcast"):
            return constant(found.operands[0], instructions)
        if found.operation == "get-tuple-element" and instructions is condition:
            index = _INDEX.search(found.rest)
            return None if index is None else constant(start.operands[int(index[1])], around)
        return None

    first, bound = (constant(name, condition) for name in compared[0].operands)
    return bound if first == 0 else None


def _moved(collective: _Instruction) -> int:
    """Bytes of the results; what is only started has its operands before them, and scalars of its own after."""
    parts = _SHAPE.findall(collective.shape)
    if collective.operation.endswith("-start") and not collective.operation.startswith("all-reduce"):
        parts = [part for part in parts if part[1]]
        parts = parts[len(parts) // 2 :]
    return sum(_size(*part) for part in parts)


def _size(dtype: str, dimensions: str) -> int:
    bits = _BITS.get(dtype) or (int(digits[0]) if (digits := re.findall(r"\d+", dtype)) else 8)
    return math.prod(int(side) for side in dimensions.split(",") if side) * bits // 8
