"""A stack is its layers one after another, however it is run."""

import dataclasses
import itertools
from collections import Counter
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import loraize
from lodos.models.decoder import LmHeadModel
from lodos.nn.attention.blockwise import OUT_NAME
from lodos.nn.dropout import dropout
from lodos.nn.linear import PRODUCT_NAME, Linear
from lodos.nn.stacked import Period, Stacked, Stacks
from lodos.tree import combine, member_name, partition
from tiny_training import tiny_config

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
    return value_and_gradients(dataclasses.replace(stack, gradient_checkpointing="none"))


def test_by_default_products_are_kept(stack: Stacked) -> None:
    assert stack.gradient_checkpointing == "dots"


def test_scanned_and_unrolled_are_equal(stack: Stacked, plain: Any) -> None:
    unrolled = value_and_gradients(dataclasses.replace(stack, scan=False, gradient_checkpointing="none"))
    for one, two in zip(plain, unrolled, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("mode", MODES[1:])
def test_what_is_recomputed_changes_no_gradient(stack: Stacked, plain: Any, mode: Any, scan: bool) -> None:
    """With dropout, whose mask must be the same the second time."""
    recomputed = value_and_gradients(dataclasses.replace(stack, gradient_checkpointing=mode, scan=scan))
    for one, two in zip(plain, recomputed, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * np.abs(one).max())


def make_decoder(mode: Any, *, scan: bool = False, lora: bool = True) -> LmHeadModel:
    model = LmHeadModel.init(
        tiny_config(), scan_layers=scan, gradient_checkpointing=mode, attn_implementation="blockwise", key=KEY
    )
    return loraize(model, LoraConfig(r=2), key=KEY) if lora else model


ROWS = jnp.ones((2, 20), jnp.int32)


def last_hidden(model: LmHeadModel) -> Any:
    """What comes out of the stack."""
    decoder = eqx.tree_at(lambda decoder: decoder.norm, model.model, replace=lambda x: x)
    return decoder(ROWS, ROWS, jnp.cumsum(ROWS, axis=1) - 1)[0]


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("scan", [True, False])
def test_checkpointing_keeps_less_for_the_backward_pass(scan: bool, lora: bool) -> None:
    def kept(mode: Any) -> int:
        backward = jax.eval_shape(
            lambda model: jax.vjp(last_hidden, model)[1], make_decoder(mode, scan=scan, lora=lora)
        )
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept("full") < kept("dots") < kept("none")


@pytest.mark.parametrize("lora", [True, False])
def test_of_a_layer_only_its_input_products_and_attention_are_kept(lora: bool, capsys: Any) -> None:
    """No norm, no activation, no rotation, and no `[tokens, r]` of LoRA."""
    config = tiny_config()
    layers, tokens = config.num_hidden_layers, ROWS.size
    jax.ad_checkpoint.print_saved_residuals(last_hidden, make_decoder("dots", lora=lora))
    lines = capsys.readouterr().out.splitlines()
    names = Counter(line.split("'")[1] for line in lines if " named '" in line)
    # q, k, v, o, gate and up; down is part of the next layer's input.
    assert names == {PRODUCT_NAME: 6 * layers, OUT_NAME: 2 * layers}
    # JAX writes a dtype in full or in short.
    others = [line.split()[0].partition("[")[2] for line in lines if " named '" not in line and f"[{tokens}," in line]
    inputs = [shape for shape in others if shape == f"{tokens},{config.hidden_size}]"]
    assert len(inputs) == layers
    assert set(others) - set(inputs) <= {f"{tokens},1]"}  # the ids of the embedding's rows


class Half(eqx.Module):
    """A part that is missing in the lowest layers."""

    weight: Any
    first_layer: int = eqx.field(static=True)

    def in_layers(self, start: int, stop: int) -> Any:
        return Half(self.weight[start:stop], max(self.first_layer - start, 0)) if stop > self.first_layer else None


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("first", range(LAYERS))
def test_a_stack_is_run_in_two_parts_where_something_begins(first: int, scan: bool) -> None:
    """Each layer with its own weight, input and key, and without what it does not have."""
    present = []

    def apply(layer: Any, x: Any, offset: Any, key: Any) -> Any:
        present.append(layer["half"] is not None)
        x = x * 2 + offset + (0 if layer["half"] is None else layer["half"].weight)
        return x, (x, jax.random.uniform(key))

    weights = jnp.arange(1.0, LAYERS + 1).at[:first].set(0)
    stack = Stacked({"half": Half(weights, first), "rest": jnp.zeros(LAYERS)}, LAYERS, scan, "none")  # pyright: ignore[reportArgumentType]
    x, (outs, drawn) = stack.fold(apply, jnp.zeros(()), OFFSETS, key=KEY)
    expected = [0.0]
    for offset, weight in zip(OFFSETS, weights, strict=True):
        expected.append(float(expected[-1] * 2 + offset + weight))
    np.testing.assert_allclose(outs, expected[1:], rtol=1e-6)
    assert float(x) == outs[-1]
    np.testing.assert_allclose(drawn, [jax.random.uniform(key) for key in jax.random.split(KEY, LAYERS)])
    # How often equal layers are traced is JAX's affair.
    assert [is_there for is_there, _ in itertools.groupby(present)] == [False] * (first > 0) + [True]


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

        # With checkpointing JAX would trace equal layers once and use the result for all.
        variant = dataclasses.replace(stack, scan=scan, gradient_checkpointing="none")
        jax.make_jaxpr(lambda x: variant.fold(apply, x, OFFSETS, key=None))(X)
        return count

    assert (traces(scan=True), traces(scan=False)) == (1, LAYERS)


@pytest.mark.parametrize("first", [0, 1, 6])
@pytest.mark.parametrize("mode", MODES)
def test_no_second_copy_of_the_base_is_made(mode: Any, first: int) -> None:
    """Of eight layers of 3 MB each, with few tokens: adapters in all of them, or from some layer on."""
    targets = [f"layers.{index}.mlp.down_proj" for index in range(first, 8)] if first else None
    config = tiny_config(num_hidden_layers=8, hidden_size=256, intermediate_size=1024)
    model = LmHeadModel.init(config, gradient_checkpointing=mode, key=KEY)
    base_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(model.model.layers.stacked))
    model = loraize(model, LoraConfig(r=2, target_modules=targets), key=KEY)
    trainable, frozen = partition(model, lora_trainable_params_filter(model))

    @jax.jit
    def gradients(trainable: Any, frozen: Any) -> Any:
        return jax.grad(lambda trainable: jnp.sum(last_hidden(combine(trainable, frozen))))(trainable)

    memory = gradients.lower(trainable, frozen).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.7 * base_bytes


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("first", [0, 1, 4, 6])
def test_unlike_layers_run_in_their_order(first: int, scan: bool) -> None:
    """Two periods of three and a layer more, each with its own weight, input and key, from some layer on another."""
    count = 7
    numbers = jnp.arange(1.0, count + 1)
    halves = jnp.where(jnp.arange(count) < first, 0.0, numbers)

    def member(start: int, step: int, repeats: int) -> Any:
        places = start + step * np.arange(repeats)
        adapted = np.flatnonzero(places >= first)
        half = Half(halves[places], int(adapted[0])) if adapted.size else None
        return {"half": half, "whole": numbers[places]}

    period = Period({member_name(place, 3): member(place, 3, 2) for place in range(3)})
    stacks = Stacks((Stacked(period, 6, scan, "none"), Stacked(Period({"6+1*": member(6, 1, 1)}), 1, scan, "none")))

    def apply(layer: Any, x: Any, offset: Any, key: Any) -> Any:
        x = x * 2 + offset + layer["whole"] + (0 if layer["half"] is None else layer["half"].weight)
        return x, (x, jax.random.uniform(key))

    offsets = jnp.linspace(0.5, 2.0, count)
    x, (outs, drawn) = stacks.fold(apply, jnp.zeros(()), offsets, key=KEY)
    expected = [0.0]
    for place in range(count):
        expected.append(float(expected[-1] * 2 + offsets[place] + numbers[place] + halves[place]))
    np.testing.assert_allclose(outs, expected[1:], rtol=1e-6)
    assert float(x) == outs[-1]
    np.testing.assert_allclose(drawn, [jax.random.uniform(key) for key in jax.random.split(KEY, count)])
    assert (stacks.num_layers, stacks.first_layer) == (count, {0: 0, 1: 0, 4: 3, 6: 6}[first])
