"""`y = W x + b + scale * B (A dropout(x))`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.lora.layers import LoraLinear
from lodos.nn.linear import Linear

IN, OUT, R, TOKENS = 12, 7, 3, 20


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make_layer(*, bias: bool = True, scale: float = 0.7, dropout: float = 0.0, dtype: Any = jnp.float32) -> LoraLinear:
    base = Linear(
        jnp.asarray(numbers(0, OUT, IN), dtype), jnp.asarray(numbers(1, OUT), dtype) if bias else None, ("mlp", "embed")
    )
    return LoraLinear(base, jnp.asarray(numbers(2, R, IN)), jnp.asarray(numbers(3, OUT, R)), None, scale, dropout)


def make_stack(*adapted: bool) -> LoraLinear:
    """A stack of which some layers are adapted."""
    layers = len(adapted)
    base = Linear(jnp.asarray(numbers(0, layers, OUT, IN)), jnp.asarray(numbers(1, layers, OUT)), ("mlp", "embed"))
    mask = np.asarray(adapted)[:, None, None]
    ranks = tuple(R if is_adapted else 0 for is_adapted in adapted)
    lora_A, lora_B = (jnp.asarray(numbers(2, layers, *shape) * mask) for shape in ((R, IN), (OUT, R)))
    return LoraLinear(base, lora_A, lora_B, ranks, 0.7, 0.5)


def layer_of(stack: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], stack)


def in_float64(layer: LoraLinear, x: np.ndarray) -> np.ndarray:
    weight, lora_A, lora_B = (
        np.asarray(array).astype(np.float64) for array in (layer.base_layer.weight, layer.lora_A, layer.lora_B)
    )
    bias = 0.0 if layer.base_layer.bias is None else np.asarray(layer.base_layer.bias).astype(np.float64)
    return x @ weight.T + bias + layer.scale * (x @ lora_A.T) @ lora_B.T


@pytest.mark.parametrize("scale", [1.0, 0.5, -2.0])
@pytest.mark.parametrize("bias", [False, True])
def test_the_output_is_the_formula(bias: bool, scale: float) -> None:
    layer, x = make_layer(bias=bias, scale=scale), numbers(4, TOKENS, IN)
    np.testing.assert_allclose(layer(jnp.asarray(x)), in_float64(layer, x), rtol=0, atol=1e-5)


def test_any_number_of_leading_axes_is_tokens() -> None:
    layer, x = make_layer(), jnp.asarray(numbers(4, 2, 5, IN))
    np.testing.assert_allclose(layer(x).reshape(10, OUT), layer(x.reshape(10, IN)), atol=1e-6)
    np.testing.assert_allclose(layer(x)[1, 3], layer(x[1, 3]), atol=1e-6)


def test_bfloat16_activations_and_float32_factors_give_bfloat16() -> None:
    layer, x = make_layer(dtype=jnp.bfloat16), jnp.asarray(numbers(4, TOKENS, IN), jnp.bfloat16)
    out = layer(x)
    assert out.dtype == jnp.bfloat16
    assert (layer.lora_A.dtype, layer.lora_B.dtype) == (jnp.float32, jnp.float32)
    expected = in_float64(layer, np.asarray(x).astype(np.float64))
    # A handful of roundings, each by 2^-9 of the largest value at most.
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_without_a_key_nothing_is_dropped() -> None:
    x = jnp.asarray(numbers(4, TOKENS, IN))
    assert np.array_equal(make_layer(dropout=0.5)(x), make_layer(dropout=0.0)(x))


def test_a_rate_of_zero_drops_nothing() -> None:
    layer, x = make_layer(dropout=0.0), jnp.asarray(numbers(4, TOKENS, IN))
    assert np.array_equal(layer(x, key=jax.random.key(0)), layer(x))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_only_inputs_of_lora_a_are_dropped_and_the_rest_are_scaled_up(dtype: Any) -> None:
    rate, scale = 0.25, 2.0
    base = Linear(jnp.zeros((IN, IN), dtype), None, ("mlp", "embed"))
    layer = LoraLinear(base, jnp.eye(IN), jnp.eye(IN), None, scale, rate)
    x = jnp.asarray(np.where(numbers(4, 4000, IN) > 0, 1.5, -3.0), dtype)
    update = np.asarray(layer(x, key=jax.random.key(0)), np.float32)
    kept = update != 0
    assert update[kept] == pytest.approx(np.asarray(x, np.float32)[kept] * scale / (1 - rate), rel=1e-6)
    assert kept.mean() == pytest.approx(1 - rate, abs=0.01)
    # The base layer sees every input: with B zero the key changes nothing.
    fresh = LoraLinear(make_layer().base_layer, jnp.ones((R, IN)), jnp.zeros((OUT, R)), None, scale, 0.9)
    full = jnp.asarray(numbers(5, TOKENS, IN))
    assert np.array_equal(fresh(full, key=jax.random.key(0)), fresh.base_layer(full))


def test_dropout_preserves_the_mean() -> None:
    layer, x = make_layer(dropout=0.3), jnp.asarray(numbers(4, IN))
    outs = np.asarray(layer(jnp.broadcast_to(x, (40_000, IN)), key=jax.random.key(1)), np.float64)
    error = outs.std(axis=0) / np.sqrt(len(outs))
    assert np.all(error > 0)
    assert np.all(np.abs(outs.mean(axis=0) - np.asarray(layer(x))) < 5 * error)


def test_the_key_decides_the_mask() -> None:
    layer, x = make_layer(dropout=0.5), jnp.asarray(numbers(4, TOKENS, IN))
    one, again, other = (np.asarray(layer(x, key=jax.random.key(seed))) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_delta_is_what_the_adapter_adds() -> None:
    layer, x = make_layer(), jnp.asarray(numbers(4, TOKENS, IN))
    assert layer.delta().dtype == jnp.float32
    np.testing.assert_allclose(layer(x) - layer.base_layer(x), x @ layer.delta().T, rtol=0, atol=1e-5)
    assert np.any(layer.delta())


def test_the_merged_layer_computes_the_same() -> None:
    layer, x = make_layer(), jnp.asarray(numbers(4, TOKENS, IN))
    np.testing.assert_allclose(layer.merged()(x), layer(x), rtol=0, atol=1e-5)
    assert layer.merged().axes == layer.base_layer.axes


def test_layers_of_a_stack_that_are_not_adapted_are_their_base() -> None:
    stack, x = make_stack(False, True, False), jnp.asarray(numbers(4, TOKENS, IN))
    merged = stack.merged()
    for index, adapted in enumerate([False, True, False]):
        base = layer_of(stack.base_layer, index)
        out = layer_of(stack, index)(x)
        assert np.array_equal(out, base(x)) != adapted
        assert np.array_equal(merged.weight[index], base.weight) != adapted
        np.testing.assert_allclose(layer_of(merged, index)(x), out, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("adapted", "first"), [([True, False], 0), ([False, True, False, True], 1), ([False, False, True], 2)]
)
def test_the_first_layer_is_the_lowest_that_is_adapted(adapted: list[bool], first: int) -> None:
    assert make_stack(*adapted).first_layer == first
    assert make_layer().first_layer == 0


def test_a_part_of_a_stack_has_the_factors_of_its_layers_and_the_whole_base() -> None:
    stack = make_stack(False, False, True, False)
    part = stack.in_layers(1, 4)
    assert isinstance(part, LoraLinear)
    assert part.ranks == (0, R, 0)
    assert (part.scale, part.dropout) == (stack.scale, stack.dropout)
    assert np.array_equal(part.lora_A, stack.lora_A[1:4])
    assert np.array_equal(part.lora_B, stack.lora_B[1:4])
    assert part.base_layer is stack.base_layer


def test_a_part_without_adapted_layers_is_the_base_alone() -> None:
    stack = make_stack(False, False, True, False)
    for start, stop in ((0, 2), (3, 4)):
        assert stack.in_layers(start, stop) is stack.base_layer
    everywhere = LoraLinear(stack.base_layer, stack.lora_A, stack.lora_B, None, 1.0, 0.0)
    part = everywhere.in_layers(0, 2)
    assert isinstance(part, LoraLinear)
    assert part.ranks is None


def test_the_merged_weight_is_rounded_once() -> None:
    # Rounded on its own, this delta would be 2^-8: a tie, which goes to the even 1. The sum lies above the tie.
    delta = 2.0**-8 * (1 + 2.0**-10)
    base = Linear(jnp.ones((1, 1), jnp.bfloat16), None, ("mlp", "embed"))
    layer = LoraLinear(base, jnp.full((1, 1), delta), jnp.ones((1, 1)), None, 1.0, 0.0)
    assert (base.weight + layer.delta().astype(jnp.bfloat16)).item() == 1.0
    merged = layer.merged().weight
    assert merged.dtype == jnp.bfloat16
    assert merged.item() == 1.0 + 2.0**-7


def test_every_axis_of_the_factors_has_a_name() -> None:
    layer = make_layer()
    axes = layer.logical_axes()
    assert axes["lora_A"] == ("lora_r", "embed")
    assert axes["lora_B"] == ("mlp", "lora_r")
    assert (layer.in_features, layer.out_features) == (IN, OUT)
