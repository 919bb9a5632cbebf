from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.nn.stacked import Period, Stacked, Stacks
from lodos.tree import (
    cast_floating,
    combine,
    layer_names,
    map_modules,
    member_name,
    named_leaves,
    parameter_count,
    partition,
    path_name,
)


class Inner(eqx.Module):
    weight: Any
    bias: Any = None


class Stack(eqx.Module):
    stacked: Inner
    size: int = eqx.field(static=True, default=2)


class Outer(eqx.Module):
    layers: Stack
    blocks: tuple[Inner, ...]
    table: dict[str, Any]


@pytest.fixture
def tree() -> Outer:
    """Floats, integers, booleans and None."""
    return Outer(
        Stack(Inner(jnp.ones((2, 3, 4)))),
        (Inner(jnp.ones(3, jnp.bfloat16), jnp.zeros(2)), Inner(jnp.arange(5))),
        {"key": jnp.asarray([True, False]), "rate": jnp.asarray(0.5, jnp.float16)},
    )


NAMES = [
    "layers.*.weight",
    "blocks.0.weight",
    "blocks.0.bias",
    "blocks.1.weight",
    "table.key",
    "table.rate",
]


def is_inner(node: Any) -> bool:
    return isinstance(node, Inner)


def test_a_path_is_written_with_dots_and_a_star_for_the_layer() -> None:
    attribute, item, key = jax.tree_util.GetAttrKey, jax.tree_util.SequenceKey, jax.tree_util.DictKey
    assert path_name((attribute("layers"), attribute("stacked"), attribute("q_proj"))) == "layers.*.q_proj"
    assert path_name((key("h"), item(3), attribute("weight"))) == "h.3.weight"
    assert path_name((key("stacked"), jax.tree_util.FlattenedIndexKey(0))) == "stacked.0"
    assert path_name(()) == ""


def test_a_stacked_name_stands_for_one_name_a_layer() -> None:
    assert layer_names("model.layers.*.q_proj", 3) == [f"model.layers.{index}.q_proj" for index in range(3)]
    assert layer_names("lm_head", None) == ["lm_head"]


def test_unlike_layers_have_the_names_of_their_places() -> None:
    tree = Stacks((Stacked(Period({"0+2*": Inner(jnp.ones((3, 4))), "1+2*": Inner(jnp.ones((3, 4)))}), 6),))
    assert list(named_leaves({"layers": tree})) == ["layers.0+2*.weight", "layers.1+2*.weight"]
    assert member_name(1, 6) == "1+6*"
    assert layer_names("layers.1+6*.q_proj", 3) == ["layers.1.q_proj", "layers.7.q_proj", "layers.13.q_proj"]


def test_leaves_are_named_in_tree_order(tree: Outer) -> None:
    leaves = named_leaves(tree)
    assert list(leaves) == NAMES
    assert all(found is leaf for found, leaf in zip(leaves.values(), jax.tree.leaves(tree), strict=True))


def test_subtrees_can_be_leaves(tree: Outer) -> None:
    leaves = named_leaves(tree, is_inner)
    assert list(leaves) == ["layers.*", "blocks.0", "blocks.1", "table.key", "table.rate"]
    assert leaves["blocks.1"] is tree.blocks[1]


def test_mapping_replaces_modules_by_name_and_nothing_else(tree: Outer) -> None:
    mapped = map_modules(lambda name, _: name, tree, is_inner)
    assert (mapped.layers.stacked, mapped.blocks) == ("layers.*", ("blocks.0", "blocks.1"))
    assert mapped.table["key"] is tree.table["key"]
    assert is_inner(tree.layers.stacked)  # the tree given is as it was


# filter_spec -> the names that are trained
SPECS: dict[str, tuple[Any, set[str]]] = {
    "everything": (True, {"layers.*.weight", "blocks.0.weight", "blocks.0.bias", "table.rate"}),
    "nothing": (False, set()),
    "a function": (lambda leaf: leaf.ndim == 1, {"blocks.0.weight", "blocks.0.bias"}),
    "a prefix": (Outer(False, (True, True), False), {"blocks.0.weight", "blocks.0.bias"}),  # pyright: ignore
}


@pytest.mark.parametrize("spec", SPECS)
def test_floats_that_are_selected_are_trained_and_the_rest_stays(spec: str, tree: Outer) -> None:
    filter_spec, expected = SPECS[spec]
    trainable, rest = partition(tree, filter_spec)
    assert set(named_leaves(trainable)) == expected
    assert set(named_leaves(rest)) == set(NAMES) - expected


@pytest.mark.parametrize("spec", SPECS)
def test_the_parts_make_the_whole(spec: str, tree: Outer) -> None:
    whole = combine(*partition(tree, SPECS[spec][0]))
    assert jax.tree.structure(whole) == jax.tree.structure(tree)
    assert all(found is leaf for found, leaf in zip(jax.tree.leaves(whole), jax.tree.leaves(tree), strict=True))


def test_parameters_are_the_numbers_of_floating_point_arrays(tree: Outer) -> None:
    assert parameter_count(tree) == 2 * 3 * 4 + 3 + 2 + 1
    assert parameter_count({"step": jnp.arange(7), "name": "x", "none": None, "rate": 0.1}) == 0


def test_shapes_stand_for_arrays() -> None:
    shapes = {"a": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16), "b": jax.ShapeDtypeStruct((5,), jnp.int32)}
    assert parameter_count(shapes) == 6
    assert partition(shapes, True) == ({"a": shapes["a"], "b": None}, {"a": None, "b": shapes["b"]})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_casting_touches_floating_point_arrays_only(dtype: Any, tree: Outer) -> None:
    cast = named_leaves(cast_floating(tree, dtype))
    for name, leaf in named_leaves(tree).items():
        floating = name not in ("blocks.1.weight", "table.key")
        assert cast[name].dtype == (dtype if floating else leaf.dtype), name
        assert np.array_equal(np.asarray(cast[name], np.float64), np.asarray(leaf, np.float64)), name


def test_keys_of_random_numbers_are_neither_cast_nor_trained_nor_counted() -> None:
    tree = {"key": jax.random.key(0), "x": jnp.ones(2)}
    assert cast_floating(tree, jnp.bfloat16)["key"] is tree["key"]
    assert parameter_count(tree) == 2
    assert partition(tree, True)[0]["key"] is None
