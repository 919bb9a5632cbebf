"""What a step holds on each device."""

import dataclasses
import math
import re
from typing import Any

import jax
from jaxtyping import PyTree


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes on one device while a step runs. Arguments are counted from shapes and layouts, the rest is XLA's."""

    base: int
    """Frozen parameters."""
    adapter: int
    """Parameters that are trained."""
    optimizer: int
    batch: int
    """Tokens and what belongs to them, and the step's key."""
    temporaries: int
    """Activations, gradients and whatever else the program holds in between, and results beside their arguments."""

    @property
    def arguments(self) -> int:
        return self.base + self.adapter + self.optimizer + self.batch

    @property
    def total(self) -> int:
        return self.arguments + self.temporaries


def bytes_per_device(tree: PyTree) -> int:
    """Of arrays or shapes that have their layouts."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * _item_size(leaf.dtype)
        for leaf in jax.tree.leaves(tree)
        if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    )


def temporaries_of(compiled: jax.stages.Compiled) -> int:
    """Bytes beside the arguments: temporary buffers, and results that do not take an argument's place."""
    found = compiled.memory_analysis()
    assert found is not None
    return found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes


def bytes_refused(error: Exception, arguments: int) -> int | None:
    """What a compiler that refuses a program for lack of memory says it would take; None if it says something else.

    Args:
        arguments: bytes of the program's arguments, of which one of the compiler's messages does not speak.
    """
    text = str(error)
    if match := re.search(r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds", text):
        return _bytes(*match.groups()) + arguments
    match = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", text)
    return None if match is None else _bytes(*match.groups())


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))


def _item_size(dtype: Any) -> int:
    size: int = dtype.itemsize
    return size
