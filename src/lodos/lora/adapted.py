"""What an adapted layer says of itself to those who train, save and merge it.

The filter, the names in files and merging ask the layer; none of them knows what kinds of layers there are.

    factors             A and B, which are trained; in a stack with a leading `layers` axis
    rank_of(i)          how many rows of A and columns of B are layer i's; the rest is zero and stays so
    file_tensors(i)     the tensors of layer i by the names they have in PEFT's files, no larger than its rank
    delta_of(i, rows)   what the adapter adds to rows of layer i's weight
    merged()            the plain layer that computes the same

A stack has one array for A and one for B, as large as its largest rank needs. Where A's row and B's column are both
zero neither has a gradient, and weight decay leaves zero what is zero: so a smaller rank costs a few products with
zeros, and is otherwise what it would be on its own.
"""

import abc
import dataclasses
from typing import Any, ClassVar, Self

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from lodos.gathering import gathered


class LoraLayer(eqx.Module):
    """A layer with the factors A `[r, in]` and B `[out, r]` beside it, or a stack of such layers."""

    base_layer: eqx.AbstractVar[Any]
    scale: eqx.AbstractVar[Any]
    """By which `B A` is multiplied: a number, or in a stack one for each layer."""
    factor_names: ClassVar[tuple[str, str]]
    """The fields of A and B."""
    names_in_files: ClassVar[tuple[str, str]]
    """What PEFT's files call them, after the name of the layer."""

    @abc.abstractmethod
    def merged(self) -> Any:
        """The plain layer with the update added to its weight: in float32, rounded once to the weight's dtype."""

    @abc.abstractmethod
    def delta_of(self, index: int | None, rows: slice = slice(None)) -> Float[np.ndarray, "..."]:
        """What the adapter adds to the weight of a layer, or rows of it, in float32 and in the weight's layout."""

    @property
    def factors(self) -> tuple[Array, Array]:
        A, B = (getattr(self, name) for name in self.factor_names)
        return A, B

    @property
    def num_layers(self) -> int | None:
        """How many layers the stack has; None of a layer on its own."""
        A, _ = self.factors
        return A.shape[0] if A.ndim == 3 else None

    @abc.abstractmethod
    def rank_of(self, index: int | None) -> int:
        """The rank of a layer of the stack, 0 if it is not adapted; `index` is None of a layer on its own."""

    def file_shapes(self, index: int | None) -> dict[str, tuple[int, ...]]:
        """The shapes of `file_tensors`; the layer may be one of shapes without arrays."""
        (A, B), rank = self.factors, self.rank_of(index)
        return dict(zip(self.names_in_files, [(rank, A.shape[-1]), (B.shape[-2], rank)], strict=True))

    def file_tensors(self, index: int | None) -> dict[str, np.ndarray]:
        """The factors of a layer, `[rank, in]` and `[out, rank]`, in float32 on the host."""
        rank = self.rank_of(index)
        A, B = (np.asarray(x if index is None else x[index], np.float32) for x in self.factors)
        return dict(zip(self.names_in_files, [A[:rank], B[:, :rank]], strict=True))

    def on_host(self) -> Self:
        """The layer with its factors in float32 on the host, on each of several, fetched once for all its layers."""
        A, B = (gathered(factor).astype(np.float32, copy=False) for factor in self.factors)
        fields: dict[str, Any] = dict(zip(self.factor_names, (A, B), strict=True))
        return dataclasses.replace(self, **fields)

    def with_factors(self, A: Array, B: Array) -> Self:
        """The layer with other factors; what is beyond the rank of a layer is zero, whatever is given for it."""
        fields: dict[str, Any] = dict(zip(self.factor_names, self.within_ranks(A, B), strict=True))
        return dataclasses.replace(self, **fields)

    def within_ranks(self, A: Array, B: Array) -> tuple[Array, Array]:
        """Factors that are zero beyond the rank of each layer."""
        return A, B
