"""Layers of one input give what they give one by one; where they are split over devices, one sum goes back of them all.

The file is also a script, which writes what eight devices find, and what travels between them.
"""

import json
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from devices import collectives, run_with_devices
from lodos.lora.layers import LoraLinear
from lodos.nn.dropout import row_keys
from lodos.nn.linear import Linear
from lodos.nn.products import product, products
from lodos.sharding import compute_axis_mapping, shard
from lodos.tree import named_leaves

TOKENS, EMBED, INNER, ROWS, R, LAYER = 24, 16, 12, 4, 2, 1
MAPPING = {"mlp": "model", "heads": "model", "few": "model"}
"""`few` are too few to be split."""
KEYS = jax.random.split(jax.random.key(5), 4)

PLAIN, BIASED, ADAPTED, DROPPING, STACKED = "plain", "biased", "adapted", "dropping", "of a stack"
CASES: dict[str, tuple[list[tuple[str, str, str, int]], Any]] = {
    # Each layer's kind, axes and out features, and what its mapping has besides.
    "plain": ([(PLAIN, "mlp", "embed", INNER)] * 2, {}),
    "adapted": ([(ADAPTED, "heads", "embed", INNER), (ADAPTED, "mlp", "embed", 8), (ADAPTED, "mlp", "embed", 4)], {}),
    "dropping": ([(DROPPING, "heads", "embed", INNER), (DROPPING, "mlp", "embed", 8)], {}),
    "some adapted": ([(DROPPING, "mlp", "embed", INNER), (BIASED, "mlp", "embed", INNER)], {}),
    "of a stack": ([(STACKED, "mlp", "embed", INNER), (STACKED, "mlp", "embed", INNER)], {}),
    "one left whole": ([(DROPPING, "heads", "embed", INNER), (BIASED, "few", "embed", 6)], {}),
    "columns": ([(DROPPING, "embed", "mlp", INNER)], {}),
    "biased columns": ([(BIASED, "embed", "mlp", INNER)], {}),
    "rows and columns": ([(ADAPTED, "embed", "mlp", INNER), (ADAPTED, "mlp", "embed", INNER)], {}),
    "rows by columns": ([(ADAPTED, "mlp", "embed", INNER), (BIASED, "mlp", "embed", INNER)], {"embed": "data"}),
    "rank": ([(ADAPTED, "mlp", "embed", INNER), (ADAPTED, "embed", "mlp", INNER)], {"lora_r": "data"}),
    "both axes": ([(DROPPING, "mlp", "embed", 8), (DROPPING, "heads", "embed", 8)], {"mlp": ("data", "model")}),
    "tokens too": ([(DROPPING, "mlp", "embed", 8), (BIASED, "heads", "embed", 8)], {"tokens": "data"}),
    "tokens of columns": ([(DROPPING, "embed", "mlp", INNER)], {"tokens": "data"}),
    "tokens over all": ([(ADAPTED, "mlp", "embed", 8), (ADAPTED, "embed", "mlp", 8)], {"tokens": ("data", "model")}),
    "whole": ([(DROPPING, "few", "embed", 6), (BIASED, "few", "embed", 6)], {}),
}


def make_layer(seed: int, kind: str, out_axis: str, in_axis: str, out_features: int) -> Any:
    keys = jax.random.split(jax.random.key(seed), 4)
    base = Linear.init(out_features, EMBED, axes=(out_axis, in_axis), bias=kind == BIASED, std=0.5, key=keys[0])
    if kind == PLAIN:
        return base
    if base.bias is not None:
        return eqx.tree_at(lambda layer: layer.bias, base, jax.random.normal(keys[1], (out_features,)))
    A, B = jax.random.normal(keys[2], (R, EMBED)), jax.random.normal(keys[3], (out_features, R))
    if kind == STACKED:
        return LoraLinear(base, A, B, (0, 2), (1.0, 0.7), 0.3, jnp.asarray(LAYER))
    return LoraLinear(base, A, B, None, 0.7, 0.3 if kind == DROPPING else 0.0)


def make_case(case: str) -> tuple[list[Any], Any, Any]:
    """The layers, and an input and keys for its rows."""
    layers = [make_layer(seed, *layer) for seed, layer in enumerate(CASES[case][0])]
    x = jax.random.normal(jax.random.key(9), (TOKENS, EMBED))
    return layers, x, [row_keys(key, ROWS) for key in KEYS[: len(layers)]]


def one_by_one(layers: Any, x: Any, keys: Any) -> list[Any]:
    return [layer(x, key=key) for layer, key in zip(layers, keys, strict=True)]


def value_and_gradients(run: Any, layers: Any, x: Any, keys: Any) -> dict[str, Any]:
    """What comes out, and the gradients of the input and of all that the layers have, by name."""
    arrays, static = eqx.partition(layers, eqx.is_inexact_array)

    def total(arrays: Any, x: Any) -> Any:
        outs = run(eqx.combine(arrays, static), x, keys)
        return sum(jnp.sum(jnp.sin(out)) for out in outs), outs

    gradients, outs = jax.grad(total, (0, 1), has_aux=True)(arrays, x)
    return {**{f"out {place}": out for place, out in enumerate(outs)}, **named_leaves(gradients)}


def main(file: Path) -> None:
    assert jax.device_count() == 8
    found = {}
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        for case, (_, more) in CASES.items():
            mapping = {**MAPPING, **more}
            layers, x, keys = make_case(case)
            arrays, static = eqx.partition(layers, eqx.is_array)

            def run(arrays: Any, x: Any, keys: Any, static: Any = static, mapping: Any = mapping) -> dict[str, Any]:
                with compute_axis_mapping(mapping):
                    layers = shard(eqx.combine(arrays, static), mapping)
                    return value_and_gradients(products, layers, x, keys)

            compiled = jax.jit(run).lower(arrays, x, keys).compile()
            moved = [
                shape
                for one in collectives(compiled.as_text() or "")
                for shape in one.shapes
                if one.kind == "all-reduce" and shape == f"f32[{TOKENS},{EMBED}]"
            ]
            values = {name: np.asarray(value).tolist() for name, value in compiled(arrays, x, keys).items()}
            found[case] = {"values": values, "inputs' sums": len(moved)}
            if case.startswith("tokens"):  # XLA's backend for CPUs widens sums of 16 bits, and must be able to
                arrays, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (arrays, x))
                jax.jit(run).lower(arrays, x, keys).compile()
    file.write_text(json.dumps(found), encoding="utf-8")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("products") / "results.json"
    run_with_devices(8, __file__, file)
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_on_a_mesh_they_give_and_are_given_back_what_they_are_one_by_one(case: str, results: dict[str, Any]) -> None:
    expected = value_and_gradients(one_by_one, *make_case(case))
    found = results[case]["values"]
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=3e-6 * max(1.0, np.abs(value).max()), err_msg=name)


@pytest.mark.parametrize("case", ["plain", "adapted", "dropping", "some adapted", "of a stack", "one left whole"])
def test_one_sum_over_the_devices_goes_back_to_the_input(case: str, results: dict[str, Any]) -> None:
    assert results[case]["inputs' sums"] == 1


@pytest.mark.parametrize("case", ["columns", "biased columns"])
def test_of_a_split_input_none_goes_back(case: str, results: dict[str, Any]) -> None:
    assert results[case]["inputs' sums"] == 0


@pytest.mark.parametrize("case", CASES)
def test_without_a_mesh_they_are_called_one_by_one(case: str) -> None:
    layers, x, keys = make_case(case)
    with compute_axis_mapping({**MAPPING, **CASES[case][1]}):
        found = products(layers, x, keys)
    for place, (out, expected) in enumerate(zip(found, one_by_one(layers, x, keys), strict=True)):
        assert np.array_equal(out, expected)
        assert np.array_equal(product(layers[place], x, keys[place]), expected)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
