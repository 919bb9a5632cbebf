"""What is trained is lora_A and lora_B, and nothing else has a gradient."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.formats.hf import HFCheckpointConverter
from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import loraize
from lodos.tree import combine, named_leaves, partition

CONFIGS = {
    "all-linear": LoraConfig(r=2),
    "the output head": LoraConfig(r=2, target_modules=["lm_head"]),
    # Their factors are zero in the other layers.
    "some layers of a stack": LoraConfig(r=2, target_modules=["layers.1.mlp.up_proj", "q_proj"]),
}


@pytest.fixture(scope="module")
def base(make_model: Any) -> Any:
    folder, _ = make_model(attention_bias=True)
    return HFCheckpointConverter.from_hf(str(folder)).load_pretrained()


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest, base: Any) -> Any:
    return loraize(base, CONFIGS[request.param], key=jax.random.key(0))


def factor_names(model: Any) -> set[str]:
    return {name for name in named_leaves(model) if name.endswith((".lora_A", ".lora_B"))}


def test_exactly_the_factors_are_marked(model: Any) -> None:
    spec = lora_trainable_params_filter(model)
    assert jax.tree.structure(spec) == jax.tree.structure(model)
    marks = named_leaves(spec)
    assert all(type(mark) is bool for mark in marks.values())
    assert {name for name, mark in marks.items() if mark} == factor_names(model)
    assert factor_names(model)


def test_a_model_without_adapters_has_nothing_to_train(base: Any) -> None:
    assert not any(jax.tree.leaves(lora_trainable_params_filter(base)))


def test_the_parts_are_disjoint_and_make_the_whole(model: Any) -> None:
    trainable, frozen = partition(model, lora_trainable_params_filter(model))
    assert set(named_leaves(trainable)) == factor_names(model)
    assert set(named_leaves(frozen)) == set(named_leaves(model)) - factor_names(model)
    whole = combine(trainable, frozen)
    assert jax.tree.structure(whole) == jax.tree.structure(model)
    assert all(found is leaf for found, leaf in zip(jax.tree.leaves(whole), jax.tree.leaves(model), strict=True))


def test_only_the_factors_have_gradients(base: Any, tokens: np.ndarray) -> None:
    model = loraize(base, CONFIGS["some layers of a stack"], key=jax.random.key(0))
    trainable, frozen = partition(model, lora_trainable_params_filter(model))

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(trainable: Any) -> jax.Array:
        return jnp.sum(jnp.square(combine(trainable, frozen)(jnp.asarray(tokens[:, :5]))))

    gradients = named_leaves(gradient(trainable))
    assert set(gradients) == factor_names(model)
    # B starts at zero: A has no gradient yet, and a B without one would never leave zero.
    assert all(np.any(leaf) == name.endswith("lora_B") for name, leaf in gradients.items())
