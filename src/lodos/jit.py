"""`jax.jit` for functions over modules, whose outputs are laid out by the names of their axes."""

import dataclasses
import functools
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, overload

import equinox as eqx
import jax
import numpy as np

from lodos.sharding import AxisMapping, shard


class NamedJit:
    """A function that is compiled for each shape and layout of its arguments; what `named_jit` makes."""

    def __init__(self, fn: Callable[..., Any], axis_resources: AxisMapping | None, donate_args: bool | Sequence[bool]):
        functools.update_wrapper(self, fn)
        self._donate_args = donate_args

        def run(kept: Sequence[Any], donated: Sequence[Any], static: tuple[Any, Sequence[_Constant | None]]) -> Any:
            structure, constants = static
            leaves = [
                constant.value if constant is not None else array if array is not None else other
                for array, other, constant in zip(kept, donated, constants, strict=True)
            ]
            args, kwargs = jax.tree.unflatten(structure, leaves)
            out = fn(*args, **kwargs)
            arrays, rest = eqx.partition(out if axis_resources is None else shard(out, axis_resources), eqx.is_array)
            return arrays, _Static(rest)

        run.__name__ = getattr(fn, "__name__", "run")  # what profiles and JAX's own messages call it
        self._jitted = jax.jit(run, donate_argnums=1, static_argnums=2)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            # An argument is donated for what can be reused of it.
            warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
            arrays, rest = self._jitted(*self._split(args, kwargs))
        return eqx.combine(arrays, rest.value)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """In the body of a class it is a method."""
        return self if instance is None else types.MethodType(self, instance)

    def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
        """As `jax.jit`'s: arguments may hold a `jax.ShapeDtypeStruct` in place of an array.

        What is lowered and compiled of it is what a call with such arrays runs, which then need not compile it.
        """
        return self._jitted.trace(*self._split(args, kwargs))

    def _split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], list[Any], Any]:
        """The arrays that are kept, those that are donated, and the rest."""
        flags = [self._donate_args] * len(args) if isinstance(self._donate_args, bool) else list(self._donate_args)
        flags += [False] * (len(args) - len(flags))
        leaves, structure = jax.tree.flatten((args, kwargs))
        donate = [flag for arg, flag in zip(args, flags, strict=True) for _ in jax.tree.leaves(arg)]
        donate += [False] * (len(leaves) - len(donate))
        is_array = [isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct) for leaf in leaves]
        marked = list(zip(leaves, is_array, donate, strict=True))
        kept = [leaf if array and not flag else None for leaf, array, flag in marked]
        donated = [leaf if array and flag else None for leaf, array, flag in marked]
        constants = tuple(None if array else _Constant(type(leaf), leaf) for leaf, array, _ in marked)
        return kept, donated, (structure, constants)


@overload
def named_jit(
    fn: Callable[..., Any], *, axis_resources: AxisMapping | None = None, donate_args: bool | Sequence[bool] = ()
) -> NamedJit: ...


@overload
def named_jit(
    fn: None = None, *, axis_resources: AxisMapping | None = None, donate_args: bool | Sequence[bool] = ()
) -> Callable[[Callable[..., Any]], NamedJit]: ...


def named_jit(
    fn: Callable[..., Any] | None = None,
    *,
    axis_resources: AxisMapping | None = None,
    donate_args: bool | Sequence[bool] = (),
) -> NamedJit | Callable[[Callable[..., Any]], NamedJit]:
    """`fn` compiled, with its outputs laid out by the names of their axes.

    Args:
        axis_resources: maps axis names to mesh axes for the outputs; None leaves the layout to XLA.
        donate_args: for each positional argument whether its buffers may be reused; one boolean is for all.

    Arguments may hold anything: arrays are traced, the rest is static and has to be hashable. Usable as a decorator
    with or without arguments. It returns when the computation is dispatched, as `jax.jit` does; `eqx.filter_jit`
    would wait for its end.
    """
    if fn is None:
        return lambda fn: NamedJit(fn, axis_resources, donate_args)
    return NamedJit(fn, axis_resources, donate_args)


@dataclasses.dataclass(frozen=True)
class _Constant:
    """A leaf that is no array; 1, 1.0 and True are different ones."""

    kind: type
    value: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    """What a jitted function returns besides arrays."""

    value: Any
