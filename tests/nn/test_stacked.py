"""A stack is its layers one after another, however it is run."""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.nn.dropout import dropout
from lodos.nn.linear import Linear
from lodos.nn.stacked import Stacked

LAYERS, WIDTH, INNER, TOKENS = 3, 6, 16, 9
MODES: list[Any] = ["none", "full", "dots"]


class Block(eqx.Module):
    up: Linear
    down: Linear

    def __call__(self, x: Any, offset: Any, *, key: Any) -> tuple[Any, Any]:
        inner = jnp.tanh(dropout(self.up(x + offset), 0.5, key))
        return x + self.down(inner), jnp.mean(inner)


@pytest.fixture(scope="module")
def stack() -> Stacked:
    one, two = jax.random.split(jax.random.key(0))
    block = Block(
        Linear.init(INNER, WIDTH, axes=("mlp", "embed"), bias=True, layers=(LAYERS,), std=0.5, key=one),
        Linear.init(WIDTH, INNER, axes=("embed", "mlp"), layers=(LAYERS,), std=0.5, key=two),
    )
    return Stacked(block, LAYERS)


X = jnp.asarray(np.random.default_rng(0).normal(size=(TOKENS, WIDTH)), jnp.float32)
OFFSETS = jnp.linspace(-1.0, 1.0, LAYERS)
KEY = jax.random.key(3)


def run(stack: Stacked, key: Any = None, x: Any = X) -> tuple[Any, Any]:
    return stack.fold(lambda block, x, offset, key: block(x, offset, key=key), x, OFFSETS, key=key)


def value_and_gradients(stack: Stacked) -> Any:
    """A loss with dropout, what the stack gives, and the gradients of every weight."""

    @eqx.filter_jit
    @partial(eqx.filter_value_and_grad, has_aux=True)
    def loss(stack: Stacked) -> Any:
        x, outs = run(stack, KEY)
        return jnp.sum(jnp.square(x)) + jnp.sum(outs), (x, outs)

    (value, outputs), gradients = loss(stack)
    return [value, *outputs, *jax.tree.leaves(gradients)]


def test_a_stack_is_its_layers_one_after_another(stack: Stacked) -> None:
    x, outs = X, []
    for index in range(LAYERS):
        block: Any = jax.tree.map(lambda leaf, index=index: leaf[index], stack.stacked)
        x, out = block(x, OFFSETS[index], key=None)
        outs.append(out)
    found, found_outs = run(stack)
    np.testing.assert_allclose(found, x, atol=1e-5)
    np.testing.assert_allclose(found_outs, outs, atol=1e-5)


@pytest.fixture(scope="module")
def plain(stack: Stacked) -> Any:
    """What the scanned stack that keeps everything gives."""
    return value_and_gradients(stack)


def test_scanned_and_unrolled_are_equal(stack: Stacked, plain: Any) -> None:
    unrolled = value_and_gradients(dataclasses.replace(stack, scan=False))
    for one, two in zip(plain, unrolled, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("mode", MODES[1:])
def test_what_is_recomputed_changes_no_gradient(stack: Stacked, plain: Any, mode: Any, scan: bool) -> None:
    """With dropout, whose mask must be the same the second time."""
    recomputed = value_and_gradients(dataclasses.replace(stack, gradient_checkpointing=mode, scan=scan))
    for one, two in zip(plain, recomputed, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("scan", [True, False])
def test_checkpointing_keeps_less_for_the_backward_pass(stack: Stacked, scan: bool) -> None:
    def kept(mode: Any) -> int:
        variant = dataclasses.replace(stack, gradient_checkpointing=mode, scan=scan)
        backward = jax.eval_shape(lambda x: jax.vjp(lambda x: run(variant, KEY, x)[0], x)[1], X)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept("full") < kept("dots") < kept("none")


@pytest.mark.parametrize("scan", [True, False])
def test_no_two_layers_drop_the_same_elements(stack: Stacked, scan: bool) -> None:
    variant = dataclasses.replace(stack, scan=scan)

    def masks(key: Any) -> np.ndarray:
        apply = lambda _, x, __, key: (x, dropout(jnp.ones(64), 0.5, key) > 0)  # noqa: E731
        return np.asarray(variant.fold(apply, X, OFFSETS, key=key)[1])

    one, again, other = (masks(jax.random.key(seed)) for seed in (0, 0, 1))
    assert len({mask.tobytes() for mask in [*one, *other]}) == 2 * LAYERS
    assert np.array_equal(one, again)


@pytest.mark.parametrize("scan", [True, False])
def test_without_a_key_no_layer_has_one(stack: Stacked, scan: bool) -> None:
    keys = []
    variant = dataclasses.replace(stack, scan=scan)
    variant.fold(lambda _, x, __, key: (x, keys.append(key)), X, OFFSETS, key=None)
    assert keys
    assert all(key is None for key in keys)


def test_a_scanned_stack_is_traced_once(stack: Stacked) -> None:
    def traces(scan: bool) -> int:
        count = 0

        def apply(block: Any, x: Any, offset: Any, key: Any) -> Any:
            nonlocal count
            count += 1
            return block(x, offset, key=key)

        jax.make_jaxpr(lambda x: dataclasses.replace(stack, scan=scan).fold(apply, x, OFFSETS, key=None))(X)
        return count

    assert (traces(scan=True), traces(scan=False)) == (1, LAYERS)
