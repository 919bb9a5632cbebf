"""The programs within a traced program, and among how many devices what stands in them is split."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in a program something stands."""

    left: int = 1
    """The devices among which XLA's partitioner may split it; 1 where it is written for one device."""
    manual: frozenset[str] = frozenset()
    """The mesh axes of which each device is written for on its own."""

    def within(self, equation: Any) -> "Place":
        """The place of the programs within an equation."""
        if equation.primitive.name != "shard_map":
            return self
        manual = self.manual | equation.params["newly_manual_axes"]
        left = math.prod(size for axis, size in equation.params["mesh"].shape.items() if axis not in manual)
        return Place(left, manual)


def programs_within(equation: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for value in equation.params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item
