"""Names, partitions and counts of pytrees.

A model is a tree of Equinox modules whose attribute names are Hugging Face's, so the path to a layer is its
Hugging Face name. Equal layers are stacked on a leading axis under an attribute called `stacked`; in a name it
is written `*`, where Hugging Face writes the layer's index:

    model.layers.stacked.self_attn.q_proj   ->   model.layers.*.self_attn.q_proj

Where unlike layers follow one another again and again, those at the same place are stacked, and what stands before the
star says which they are: `1+6*` is layers 1, 7, 13, ... (`lodos.nn.stacked`).

    model.layers.stacks.0.stacked.members.1+6*.mlp   ->   model.layers.1+6*.mlp
"""

import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

STACKED = "stacked"
"""The attribute under which a stack keeps its layers; `*` in names."""
MEMBERS = "members"
"""The attribute under which unlike layers of a stack are kept, by `member_name`."""
STACKS = "stacks"
"""The attribute under which stacks that follow one another are kept; not in names."""
_STAR = re.compile(r"(?:(\d+)\+(\d+))?\*")


def path_name(path: tuple[Any, ...]) -> str:
    """The dotted name of a key path of `jax.tree_util`, with `*` for the layer index of a stack."""
    parts = []
    for key in path:
        match key:
            case jax.tree_util.GetAttrKey(name=name) if name == MEMBERS and parts[-1:] == ["*"]:
                parts.pop()  # what follows has a star of its own
            case jax.tree_util.GetAttrKey(name=name):
                parts.append("*" if name == STACKED else name)
            case jax.tree_util.SequenceKey() if parts[-1:] == [STACKS]:
                parts.pop()
            case jax.tree_util.SequenceKey(idx=index):
                parts.append(str(index))
            case _:
                parts.append(str(key.key))
    return ".".join(parts)


def layer_names(name: str, num_layers: int | None) -> list[str]:
    """The Hugging Face names that a stacked name stands for, in layer order; `[name]` if it is not stacked.

    Args:
        num_layers: how many there are in the stack.
    """
    star = _STAR.search(name)
    if star is None:
        return [name]
    assert num_layers is not None
    first, step = (0, 1) if star[1] is None else (int(star[1]), int(star[2]))
    return [f"{name[: star.start()]}{first + step * index}{name[star.end() :]}" for index in range(num_layers)]


def member_name(first: int, step: int) -> str:
    """The name of the layers `first`, `first + step`, `first + 2 * step`, ..."""
    return f"{first}+{step}*"


def named_leaves(tree: PyTree, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Every leaf of `tree` (or subtree for which `is_leaf` holds) by its dotted name, in tree order."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return {path_name(path): leaf for path, leaf in flat}


def map_modules(fn: Callable[[str, Any], Any], tree: PyTree, is_module: Callable[[Any], bool]) -> PyTree:
    """A new tree in which each subtree for which `is_module` holds is replaced by `fn(name, subtree)`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: fn(path_name(path), leaf) if is_module(leaf) else leaf, tree, is_leaf=is_module
    )


def partition(tree: PyTree, filter_spec: PyTree) -> tuple[PyTree, PyTree]:
    """Splits a model into what is trained and the rest, each with `None` in the other's places.

    Args:
        filter_spec: an Equinox filter_spec: a tree (or a prefix of one) of booleans or of functions from a
            leaf to a boolean. `True` trains everything that can be trained.

    Only floating-point arrays can be trained: whatever else the filter selects stays with the rest. A
    `jax.ShapeDtypeStruct` is as good as an array.
    """
    selected, rest = eqx.partition(tree, filter_spec)
    trainable, not_differentiable = eqx.partition(selected, _is_floating)
    return trainable, eqx.combine(rest, not_differentiable)


combine = eqx.combine


def parameter_count(tree: PyTree) -> int:
    """How many numbers the floating-point arrays of `tree` hold, or would hold where they are shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree) if _is_floating(leaf))


def cast_floating(tree: PyTree, dtype: Any) -> PyTree:
    """`tree` with every floating-point array cast to `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree)


def _is_floating(leaf: Any) -> bool:
    is_shape = isinstance(leaf, jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    return is_shape or eqx.is_inexact_array(leaf)
