"""The backward pass goes down to the lowest adapted layer and no further, and forms what is asked for."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from jaxprs import product_flops
from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import lora_layers, loraize, merge_lora_modules, with_factors
from lodos.models.decoder import LmHeadModel
from lodos.sharding import compute_axis_mapping
from lodos.tree import cast_floating, combine, named_leaves, partition
from tiny_training import VOCAB, tiny_config

LAYERS, LAST = 4, 3
KEY = jax.random.key(1)
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 30), np.int32)
"""Enough for the summed form in all layers, and few enough for attention to be small beside the linear layers."""
EVERYTHING, LAST_ALONE = LoraConfig(r=2), LoraConfig(r=2, target_modules=rf".*layers\.{LAST}\..*_proj")


def base(*, scan: bool = True, checkpointing: Any = "none", attention: Any = "plain") -> LmHeadModel:
    config = tiny_config(num_hidden_layers=LAYERS, sliding_windows=(None, 5, None, 7))
    return LmHeadModel.init(
        config,
        scan_layers=scan,
        gradient_checkpointing=checkpointing,
        attn_implementation=attention,
        key=jax.random.key(0),
    )


def with_random_factors(model: Any) -> Any:
    """The same for each layer, whichever layers are adapted."""

    def numbers(seed: int, x: Any) -> Any:
        return 0.3 * jax.random.normal(jax.random.key(seed), x.shape)

    layers = lora_layers(model).items()
    return with_factors(model, {name: (numbers(1, layer.lora_A), numbers(2, layer.lora_B)) for name, layer in layers})


def loss(model: LmHeadModel, key: Any = None) -> Any:
    """Of the hidden states, so that the output head's products are not counted."""
    ones = jnp.ones_like(TOKENS)
    hidden, _ = model.model(jnp.asarray(TOKENS), ones, jnp.cumsum(ones, axis=1) - 1, key=key)
    return jnp.sum(jnp.square(hidden) * jnp.linspace(-1, 1, hidden.size).reshape(hidden.shape))


def gradient_of(trained: Any, key: Any = None) -> Any:
    """A function of a model: the gradients of what the filter selects."""

    def gradient(model: Any) -> Any:
        trainable, frozen = partition(model, trained(model) if callable(trained) else trained)
        return eqx.filter_grad(lambda trainable: loss(combine(trainable, frozen), key))(trainable)

    return gradient


def arrays_first(fn: Any, model: Any) -> tuple[Any, Any]:
    """`fn` as a function of the model's arrays, and these."""
    arrays, static = eqx.partition(model, eqx.is_array)
    return lambda arrays: eqx.filter(fn(eqx.combine(arrays, static)), eqx.is_array), arrays


def flops(fn: Any, model: Any) -> int:
    return product_flops(*arrays_first(fn, model))


def backward_flops(model: Any) -> int:
    return flops(gradient_of(lora_trainable_params_filter), model) - flops(loss, model)


@pytest.mark.parametrize("scan", [True, False])
def test_below_the_lowest_adapted_layer_the_backward_pass_stops(scan: bool) -> None:
    everywhere, last = (loraize(base(scan=scan), config, key=KEY) for config in (EVERYTHING, LAST_ALONE))
    forward = flops(loss, base(scan=scan))
    assert 0.9 * forward < backward_flops(everywhere) < 1.6 * forward
    assert backward_flops(last) < 1.2 * backward_flops(everywhere) / LAYERS


@pytest.mark.parametrize("scan", [True, False])
def test_by_default_no_product_is_computed_twice(scan: bool) -> None:
    """Neither those of linear layers nor attention's, which only full checkpointing does."""
    none, dots, full = (
        backward_flops(loraize(base(scan=scan, checkpointing=mode, attention="blockwise"), EVERYTHING, key=KEY))
        for mode in ("none", "dots", "full")
    )
    assert none == dots < full


def test_nor_is_attention_where_rows_are_shared_out() -> None:
    """What is kept is found inside the part of the program that each device runs, too."""
    mesh = AbstractMesh((2, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.sharding.use_abstract_mesh(mesh), compute_axis_mapping({"batch": "data", "tokens": "data"}):
        none, dots, full = (
            backward_flops(loraize(base(checkpointing=mode, attention="blockwise"), EVERYTHING, key=KEY))
            for mode in ("none", "dots", "full")
        )
    assert none == dots < full


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The dtype, in which now also what is otherwise in float32 in every compute dtype is computed."""
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    with jax.enable_x64(True):
        yield jnp.float64


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("scan", [True, False])
def test_a_layer_has_the_gradients_that_it_has_in_a_stack_adapted_as_a_whole(
    scan: bool, dropout: float, float64: Any
) -> None:
    """Of which the other layers' factors are zero: the same function, differentiated all the way down. The two round
    differently, hence float64."""
    found, whole = (
        cast_floating(
            with_random_factors(loraize(base(scan=scan), dataclasses.replace(c, dropout=dropout), key=KEY)), float64
        )
        for c in (LAST_ALONE, EVERYTHING)
    )
    zeroed = {
        name: tuple(jnp.zeros_like(x).at[LAST].set(x[LAST]) for x in (layer.lora_A, layer.lora_B))
        for name, layer in lora_layers(whole).items()
    }
    whole = with_factors(whole, zeroed)  # pyright: ignore[reportArgumentType]
    key = jax.random.key(2) if dropout else None
    gradient = eqx.filter_jit(gradient_of(lora_trainable_params_filter, key))
    gradients, expected = named_leaves(gradient(found)), named_leaves(gradient(whole))
    assert len(gradients) == 2 * 7
    for name, leaf in gradients.items():
        assert not np.any(leaf[:LAST])
        largest = np.abs(expected[name][LAST]).max()
        assert largest > 0
        np.testing.assert_allclose(leaf[LAST], expected[name][LAST], rtol=0, atol=1e-11 * largest)


@pytest.mark.parametrize("config", [EVERYTHING, LAST_ALONE], ids=["all", "last"])
def test_trained_in_full_a_weight_has_the_gradient_of_the_merged_one(config: LoraConfig) -> None:
    """`W' = W + scale * B A`, so the derivatives for W and W' are one."""
    model = with_random_factors(loraize(base(), config, key=KEY))
    gradient = eqx.filter_jit(gradient_of(True))
    found = {name.replace(".base_layer", ""): leaf for name, leaf in named_leaves(gradient(model)).items()}
    for name, expected in named_leaves(gradient(merge_lora_modules(model))).items():
        if "lm_head" not in name:
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)
