"""The product of LoRA is its formula in value and all gradients, and forms no gradient that nobody asked for."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from devices import described
from jaxprs import product_shapes
from lodos.lora.product import Arguments, lora_product
from lodos.target import compiling_for

IN, OUT, R, SCALE = 12, 7, 3, 0.7
MANY, FEW = 40, 5
"""Tokens enough for the weight and the factors to be summed up first, and too few for it."""
NAMES = ["x", "dropped", "weight", "A", "B"]


def make_arguments(tokens: int, dtype: Any = jnp.float32, *, dropout: bool = False) -> Arguments:
    rng = np.random.default_rng(tokens)
    arrays = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((tokens, IN), (OUT, IN), (R, IN), (OUT, R)))
    x, weight, A, B = arrays
    dropped = jnp.where(jnp.asarray(rng.random((tokens, IN)) < 0.5), 2 * x, 0) if dropout else None
    return x, dropped, weight, A, B


def output_gradient(tokens: int, dtype: Any = jnp.float32) -> Any:
    return jnp.asarray(np.random.default_rng(1).normal(size=(tokens, OUT)), dtype)


def in_float64(arguments: Arguments, dy: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The output and the gradients of `sum(y * dy)`."""
    x, dropped, weight, A, B, dy = (
        None if array is None else np.asarray(array).astype(np.float64) for array in (*arguments, dy)
    )
    adapted = x if dropped is None else dropped
    d_update = SCALE * dy @ B @ A
    gradients = {
        "x": dy @ weight + (d_update if dropped is None else 0),
        "dropped": d_update,
        "weight": dy.T @ x,
        "A": SCALE * (dy @ B).T @ adapted,
        "B": SCALE * dy.T @ (adapted @ A.T),
    }
    return x @ weight.T + SCALE * adapted @ A.T @ B.T, gradients


def differentiated(arguments: Arguments, dy: Any, names: Any) -> Any:
    """A function of the arguments named, and these: the gradients of `sum(y * dy)`."""
    chosen = [NAMES.index(name) for name in names]

    def total(*values: Any) -> Any:
        whole: list[Any] = list(arguments)
        for index, value in zip(chosen, values, strict=True):
            whole[index] = value
        return jnp.sum(lora_product(tuple(whole), SCALE).astype(jnp.float32) * dy)  # pyright: ignore[reportArgumentType]

    return jax.grad(total, tuple(range(len(chosen)))), [arguments[index] for index in chosen]


CASES: dict[str, dict[str, Any]] = {
    "summed": dict(tokens=MANY),
    "apart": dict(tokens=FEW),
    "bfloat16": dict(tokens=MANY, dtype=jnp.bfloat16),
    "dropout": dict(tokens=MANY, dropout=True),
    "dropout in bfloat16": dict(tokens=FEW, dtype=jnp.bfloat16, dropout=True),
}


@pytest.mark.parametrize("case", CASES)
def test_the_output_and_every_gradient_are_the_formulas(case: str) -> None:
    arguments = make_arguments(**CASES[case])
    x, dropped, *_ = arguments
    dy = output_gradient(len(x), x.dtype)
    names = [name for name in NAMES if name != "dropped" or dropped is not None]
    gradient, values = differentiated(arguments, dy, names)
    expected, expected_gradients = in_float64(arguments, dy)
    tolerance = 2e-6 if x.dtype == jnp.float32 else 0.02
    out = lora_product(arguments, SCALE)
    assert out.dtype == x.dtype
    pairs = [(out, expected)]
    pairs += [(found, expected_gradients[name]) for found, name in zip(jax.jit(gradient)(*values), names, strict=True)]
    for found, right in pairs:
        assert found.dtype == x.dtype
        np.testing.assert_allclose(
            np.asarray(found).astype(np.float64), right, rtol=0, atol=tolerance * np.abs(right).max()
        )


@pytest.mark.parametrize("case", CASES)
def test_any_subset_has_the_gradients_it_has_among_all(case: str) -> None:
    arguments = make_arguments(**CASES[case])
    dy = output_gradient(len(arguments[0]), arguments[0].dtype)
    names = [name for name, array in zip(NAMES, arguments, strict=True) if array is not None]
    gradient, values = differentiated(arguments, dy, names)
    among_all = dict(zip(names, gradient(*values), strict=True))
    for chosen in itertools.chain.from_iterable(itertools.combinations(names, n) for n in (1, 2)):
        gradient, values = differentiated(arguments, dy, chosen)
        for name, found in zip(chosen, gradient(*values), strict=True):
            assert np.array_equal(found, among_all[name]), (chosen, name)


def test_many_tokens_in_float32_take_one_large_product_forward_and_one_back() -> None:
    arguments = make_arguments(MANY)
    assert product_shapes(lambda arguments: lora_product(arguments, SCALE), arguments) == [(OUT, IN), (MANY, OUT)]
    gradient, values = differentiated(arguments, output_gradient(MANY), ["x", "A", "B"])
    backward = [(OUT, IN), (MANY, IN), (MANY, R), (R, IN), (MANY, R), (R, OUT)]
    assert product_shapes(gradient, *values) == sorted(backward)


def test_on_an_accelerator_a_small_update_is_not_rounded_away_with_the_sum() -> None:
    """They round the factors of products in float32."""
    arguments = make_arguments(MANY)
    with compiling_for(described("tpu")):
        forward = product_shapes(lambda arguments: lora_product(arguments, SCALE), arguments)
        assert forward == sorted([(MANY, OUT), (MANY, R), (MANY, OUT)])
        gradient, values = differentiated(arguments, output_gradient(MANY), ["x"])
        assert (OUT, IN) not in product_shapes(gradient, *values)


@pytest.mark.parametrize("case", CASES)
def test_no_gradient_of_a_frozen_weight_is_formed(case: str) -> None:
    """Two products of `[tokens, r]`, and those of the factors: none has the shape of the weight, none of the input."""
    arguments = make_arguments(**CASES[case])
    tokens = len(arguments[0])
    gradient, values = differentiated(arguments, output_gradient(tokens), ["A", "B"])
    assert product_shapes(gradient, *values) == sorted([(tokens, R), (tokens, R), (R, IN), (R, OUT)])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["A"], [(MANY, R), (R, IN)]),
        (["B"], [(MANY, R), (R, OUT)]),
        (["weight"], [(OUT, IN)]),
        (["x"], [(MANY, IN), (OUT, IN)]),  # the second is B A, for the sum
    ],
)
def test_only_what_is_asked_for_is_formed(names: list[str], expected: list[tuple[int, int]]) -> None:
    gradient, values = differentiated(make_arguments(MANY), output_gradient(MANY), names)
    assert product_shapes(gradient, *values) == sorted(expected)


@pytest.mark.parametrize("case", CASES)
def test_only_the_arguments_are_kept_for_the_backward_pass(case: str) -> None:
    arguments = make_arguments(**CASES[case])
    pull_back = jax.eval_shape(lambda arguments: jax.vjp(lambda a: lora_product(a, SCALE), arguments)[1], arguments)
    kept = sorted(leaf.shape for leaf in jax.tree.leaves(pull_back))
    assert kept == sorted(array.shape for array in arguments if array is not None)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("zero", [["B"], ["A"], ["A", "B"]], ids=str)
def test_a_factor_of_zero_changes_no_bit(case: str, zero: list[str]) -> None:
    arguments = make_arguments(**CASES[case])
    x, dropped, weight, A, B = arguments
    A, B = (jnp.zeros_like(f) if name in zero else f for name, f in (("A", A), ("B", B)))
    out = jax.jit(lora_product, static_argnums=1)((x, dropped, weight, A, B), SCALE)
    assert np.array_equal(out, jax.jit(lambda x, weight: x @ weight.T)(x, weight))


def test_both_factors_zero_have_no_gradient() -> None:
    """So a layer of a stack that is not adapted stays so."""
    x, dropped, weight, A, B = make_arguments(MANY)
    zeros = (x, dropped, weight, jnp.zeros_like(A), jnp.zeros_like(B))
    gradient, values = differentiated(zeros, output_gradient(MANY), ["A", "B"])
    assert not any(np.any(leaf) for leaf in gradient(*values))


def test_in_16_bits_a_small_update_is_not_rounded_away() -> None:
    """Beside a weight of 1 an update of 2^-12 is lost in the sum, but not between two inputs that cancel."""
    x, factor = jnp.asarray(np.tile([1.0, -1.0], (MANY, 1)), jnp.bfloat16), jnp.ones((1, 1), jnp.bfloat16)
    weight, A = jnp.ones((1, 2), jnp.bfloat16), jnp.asarray([[2.0**-12, 0.0]], jnp.bfloat16)
    assert np.asarray(lora_product((x, None, weight, A, factor), 1.0), np.float32).tolist() == [[2.0**-12]] * MANY
